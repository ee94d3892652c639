"""The service demo without its limiter, for comparison in benchmarks/service.py."""

from demo.service.app import create_app

app = create_app()
app.user_middleware.clear()
