"""Tests of what is the same for every Python: pages, files that describe, programs that start it.

`make test` runs them with the rest; `make test-all` leaves this folder out.
"""
