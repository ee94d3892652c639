"""What programs for Flask-Limiter import, from it or from the compat module."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from flask import Flask

THEIRS, OURS = "flask_limiter", "rate_limiter.compat.flask_limiter"

# A program gets a namespace with the module's names, and returns the application and what the
# client does: "METHOD /path Header=value", with "3x " before it to do it three times, or "+61"
# when 61 seconds pass.
Steps = str
Program = Callable[[Any], tuple[Flask, Steps]]


class Names:
    """The names that a program imports from one of the two modules."""

    def __init__(self, module: str) -> None:
        self.module = importlib.import_module(module)
        self.get_remote_address = importlib.import_module(f"{module}.util").get_remote_address
        limits = "limits" if module == THEIRS else "rate_limiter.compat.limits"
        self.parse = importlib.import_module(limits).parse

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def limiter(self, app: Flask | None = None, **options: Any) -> Any:
        key = options.pop("key_func", self.get_remote_address)
        options = {"storage_uri": "memory://", "headers_enabled": True} | options
        return self.module.Limiter(key, app=app, **options)


def flask_app(*paths: str) -> Flask:
    app = Flask("program")
    for path in paths:
        app.add_url_rule(
            path, path.strip("/"), lambda path=path: f"view {path}", methods=["GET", "POST"]
        )
    return app
