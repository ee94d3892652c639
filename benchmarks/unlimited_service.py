"""The service demo without its limiter: what benchmarks/service.py compares it with."""

from demo.service.app import create_app

app = create_app()
app.user_middleware.clear()
