"""From a request to a decision: rules, keys, client addresses, headers, denials."""
