"""Shared code of the ASGI, FastAPI and Flask integrations."""
