"""A token bucket around a FastAPI application."""
