"""Checks of arguments, and redaction of secrets."""
