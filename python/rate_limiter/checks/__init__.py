"""Checks of arguments, and what of a value may be shown."""
