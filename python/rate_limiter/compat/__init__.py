"""Import paths for programs written for other rate limiters: one changed line, the same program."""
