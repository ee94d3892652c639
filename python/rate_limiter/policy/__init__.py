"""Turn requests into decisions: rules, keys, client addresses, headers, denials."""
