"""What the ASGI, FastAPI and Flask fronts share."""
