#!/bin/sh
# Check the service end to end, as a client sees it.
#
#   deploy/run_tests.sh                        on a new stack, stopped at the end
#   deploy/run_tests.sh http://127.0.0.1:8000  on a running stack
#
# Arguments after the URL go to pytest. PYTHON sets the interpreter: by default .venv/bin/python if
# it exists, else python3.
set -eu
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 0 ;;
http://* | https://*)
    export SERVICE_URL="$1"
    shift
    ;;
esac
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
tests=tests/project/test_service_live.py
found=$("$python" -m pytest --quiet --collect-only "$tests" 2>&1) || {
    echo "$found" | grep 'No module named' | tail -n 1 >&2
    echo "run_tests.sh: $python cannot run the tests: pip install '.[test]', or make .venv/test.stamp" >&2
    exit 1
}
exec "$python" -m pytest --quiet "$tests" "$@"
