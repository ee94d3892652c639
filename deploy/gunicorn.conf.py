"""Settings of gunicorn for the demos: `gunicorn --config deploy/gunicorn.conf.py`.

DEMO names the demo (service), API_HOST and API_PORT set its address, WEB_CONCURRENCY the number of
workers. rate_limiter.settings reads the rest of the environment, and .env.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from rate_limiter.settings import Settings
from rate_limiter.startup import exit_on_mistake, forget_ended_processes
from uvicorn_worker import UvicornWorker

ROOT = Path(__file__).resolve().parent.parent
WSGI = {"flaskapp"}  # the other demos are ASGI
PORTS = {"gateway": 8080, "fastapi": 5000, "flaskapp": 5000}  # 8000 elsewhere


def number(name: str, default: int) -> int:
    """Return a whole number from 1 of the environment, or exit with an error."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        sys.exit(f"{name}={text!r} is wrong: expected a whole number from 1")
    return int(text)


demos = sorted(path.parent.name for path in ROOT.glob("demo/*/app.py"))
demo = os.environ.get("DEMO") or "service"
if demo not in demos:
    sys.exit(f"DEMO={demo!r} is not a demo: expected one of {', '.join(demos)}")
with exit_on_mistake():
    settings = Settings()

chdir = str(ROOT)
wsgi_app = f"demo.{demo}.app:app"
port = settings.api_port if "api_port" in settings.model_fields_set else PORTS.get(demo, 8000)
bind = (
    f"[{settings.api_host}]:{port}" if ":" in settings.api_host else f"{settings.api_host}:{port}"
)


class AsgiWorker(UvicornWorker):
    """A worker that stops the start if the startup of the application fails."""

    # With "auto", uvicorn would treat it as an application without a lifespan, and every path
    # would return 500.
    CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"lifespan": "on"}


# An event loop serves many clients, a WSGI worker one per thread. With a memory:// store each
# worker has its own buckets, so several workers need shared:// or Redis.
worker_class = "gthread" if demo in WSGI else AsgiWorker
threads = number("THREADS", 8) if demo in WSGI else 1
workers = number("WEB_CONCURRENCY", 2)

# The application is imported once, before the workers are forked: a mistake in it ends gunicorn
# with one message, and the code is in memory once. The engine closes inherited connections in a
# child, so a child never reads another's responses. New code needs a restart, not SIGHUP.
preload_app = True

# A worker without a heartbeat for this long is killed; a stopping one may finish its requests.
timeout = 30
graceful_timeout = number("GRACEFUL_TIMEOUT_S", 20)
keepalive = 75  # longer than the proxy keeps idle connections, so the proxy closes first

# Only RATE_LIMITER_TRUSTED_PROXIES decides which proxies to trust. By default uvicorn would also
# trust X-Forwarded-For from any process on this host.
forwarded_allow_ips = ""

# Heartbeat files on a disk can block a worker, and the root of a container is not writable.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
accesslog = "-" if settings.log_level.upper() in ("INFO", "DEBUG") else None
errorlog = "-"
control_socket_disable = True  # all instances would share one file in the home folder
loglevel = settings.log_level.lower()


# Counts survive HUP, USR2 and the end of a worker; a start after the end of all begins with none.
# Not in a hook: the preloaded application opens files in the folder before any hook is called.
forget_ended_processes()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Drop the gauges of a dead worker; its counters stay in the sum."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client.multiprocess import mark_process_dead

        with suppress(OSError):
            mark_process_dead(worker.pid)
