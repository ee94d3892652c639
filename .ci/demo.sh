#!/bin/sh
# Serve the FastAPI demo on this machine: .ci/demo.sh PORT (called by `make demo`).
set -eu
port=$1

# Asked before the server starts, so that the answer is not lost among its log lines.
.venv/bin/python - "$port" <<'PYTHON'
import socket
import sys

port = sys.argv[1]
if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
    sys.exit(f"PORT={port!r} is not a port: expected a number from 1 to 65535")
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", int(port)))
    except OSError as error:
        sys.exit(f"cannot serve on port {port} ({error.strerror}): try  make demo PORT={int(port) % 65535 + 1}")
PYTHON

url=http://127.0.0.1:$port
cat <<TEXT

The FastAPI demo: 5 tokens for each client, 1 more each second. Try in another terminal:

  curl -i $url/api/ping                        costs 1 token
  curl -i -X POST $url/api/upload              costs 3
  curl "$url/api/stats?ip=127.0.0.1"           tells what is left, costs nothing

  for i in \$(seq 15); do curl -s -o /dev/null -w '%{http_code} ' $url/api/ping; done   # 200 five times, then 429

State is kept in the Redis at ${REDIS_URL:-redis://localhost:6379/0} while one answers there, else in memory.
Ctrl-C stops it.

TEXT
exec .venv/bin/uvicorn demo.fastapi.app:app --host 127.0.0.1 --port "$port"
