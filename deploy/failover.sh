#!/bin/sh
# Kill the master of a running `deploy/start.sh sentinel`, and print the time until decisions
# come from Redis again: deploy/failover.sh [--port 8000]
# Without a running stack, `python benchmarks/failover.py --rounds 5` starts its own.
set -eu
cd "$(dirname "$0")/.."

port=8000
case ${1:-} in
'') ;;
--port) port=${2:?"failover.sh: --port lacks its value"} ;;
-h | --help) sed -n '2,4s/^# //p' "$0" && exit 0 ;;
*) echo "failover.sh: '$1' is not known: expected --port N" >&2 && exit 2 ;;
esac
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
exec "$python" benchmarks/failover.py --url "http://127.0.0.1:$port"
