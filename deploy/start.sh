#!/bin/sh
# Run a demo and its Redis as processes on this machine: the same stacks as the compose files,
# without containers. See usage(). Everything listens on the loopback address only.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    cat <<'TEXT'
usage: deploy/start.sh [plain|sentinel|cluster] [--port N] [--redis-port N] [--demo NAME]
                       [--workers N] [--server gunicorn|uvicorn]
       deploy/start.sh stop [--port N]

  plain     one Redis (default)
  sentinel  a master, two replicas, three sentinels
  cluster   three masters with a replica each

  --port N        port of the demo (8000)
  --redis-port N  first of the consecutive Redis ports (by default any free ports)
  --demo NAME     a folder of demo/ (service); all others need plain
  --workers N     worker processes (2)
  --server NAME   server program (gunicorn)

PYTHON sets the interpreter: by default .venv/bin/python if it exists, else python3.
TEXT
}

die() {
    echo "start.sh: $*" >&2
    exit 1
}

taken() { die "a stack is on port $port already: deploy/start.sh stop --port $port"; }

wrong() {
    echo "start.sh: $*; see deploy/start.sh --help" >&2
    exit 2
}

# --- Arguments ---

topology='' port=8000 redis_port='' demo=service workers=2 server=gunicorn

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help) usage && exit 0 ;;
        plain | sentinel | cluster | stop)
            [ -z "$topology" ] || wrong "'$topology' and '$1' are asked for: expected one"
            topology=$1
            ;;
        --port | --redis-port | --demo | --workers | --server)
            [ $# -gt 1 ] || wrong "$1 lacks its value"
            case $1 in
            --port) port=$(number "$@") ;;
            --redis-port) redis_port=$(number "$@") ;;
            --workers) workers=$(number "$@") ;;
            --demo) demo=$2 ;;
            --server) server=$2 ;;
            esac
            shift
            ;;
        *) wrong "'$1' is not known" ;;
        esac
        shift
    done
    topology=${topology:-plain}
    case $server in gunicorn | uvicorn) ;; *) wrong "--server '$server': expected gunicorn or uvicorn" ;; esac
    [ -f "$root/demo/$demo/app.py" ] || wrong "--demo '$demo': there is no demo/$demo/app.py"
    [ "$topology $demo" = "$topology service" ] || [ "$topology" = plain ] ||
        wrong "--demo '$demo' supports one Redis only: expected plain, not $topology"
    [ "$server $demo" != "uvicorn flaskapp" ] || wrong "--demo flaskapp is WSGI: expected --server gunicorn"
}

number() { # number OPTION VALUE...: print the value
    case $2 in
    '' | *[!0-9]* | 0* | ??????*) wrong "$1 '$2': expected a number from 1 to 65535" ;;
    esac
    [ "$2" -le 65535 ] || wrong "$1 '$2': expected a number from 1 to 65535"
    echo "$2"
}

# --- Processes. The file `state` names the folder of a stack; there, `pids` has a line for each
# process: its id, its name, its port. The process that removes `state` stops the stack. ---

folder='' state=''

# Each process leads a session: Ctrl-C then ends only this script, which ends the others in order,
# and children that a process leaves behind are found by its group.
launch() { # launch NAME PORT COMMAND...
    name=$1 at=$2
    shift 2
    "$python" -ISc 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@" \
        >"$folder/$name.log" 2>&1 </dev/null &
    echo "$! $name $at" >>"$folder/pids"
}

last_words() { tail -n 1 "$folder/$1.log" 2>/dev/null || true; }

expect_all_alive() {
    while read -r pid name _; do
        kill -0 "$pid" 2>/dev/null || die "$name ended: $(last_words "$name")"
    done <"$folder/pids"
}

wait_until() { # wait_until WHAT COMMAND...: for a minute at most
    what=$1 tries=300
    shift
    until "$@" >"$folder/answer" 2>&1; do
        expect_all_alive
        tries=$((tries - 1))
        [ $tries -gt 0 ] || die "waited in vain until $what: $(tail -n 1 "$folder/answer")"
        sleep 0.2
    done
}

# Check that a listed process is still the one that was started: ids are reused.
is_ours() {
    kill -0 "$1" 2>/dev/null || return 1
    # gunicorn has this name if setproctitle is installed.
    case $(ps -o args= -p "$1" 2>/dev/null || echo "$root") in
    *"$folder"* | *"$root"* | "gunicorn: "*) ;;
    *) return 1 ;;
    esac
}

end_process() { # end_process PID: SIGTERM, then SIGKILL
    is_ours "$1" || return 0
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 250); do
        is_ours "$1" || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

# The service is last in the list and ends first, so that it can finish its requests.
end_all() {
    [ -f "$folder/pids" ] || return 0
    pids=$(sed '1!G;h;$!d' "$folder/pids" | cut -d ' ' -f 1)
    for pid in $pids; do
        end_process "$pid"
        # Workers are left only if their parent was killed. If its id has been reused, so may be
        # the id of its group.
        case $(ps -o stat= -p "$pid" 2>/dev/null) in
        '' | Z*) kill -s KILL -- "-$pid" 2>/dev/null || true ;;
        esac
    done
}

status=0

clean_up() {
    trap '' INT TERM HUP
    end_all
    if [ -n "$folder" ]; then rm -rf "$folder"; fi
    if [ -n "$state" ]; then rm -f "$state"; fi
    rmdir "$root/build/stack" "$root/build" 2>/dev/null || true
}

# Check that a process is a start.sh: its id may have been reused.
is_start() {
    kill -0 "$1" 2>/dev/null || return 1
    case $(ps -o args= -p "$1" 2>/dev/null || echo start.sh) in *start.sh*) ;; *) return 1 ;; esac
}

stop() {
    state=$root/build/stack/$port
    [ -f "$state" ] || die "nothing was started on port $port"
    read -r supervisor folder <"$state"
    rm -f "$state"
    # The start.sh that started it ends it, unless that process is gone.
    while [ -d "$folder" ] && is_start "$supervisor"; do sleep 0.1; done
    if [ -d "$folder" ]; then clean_up; fi
    echo "stopped what was on port $port"
}

# --- Redis ---

redis() { # redis NAME PORT OPTION...
    name=$1 at=$2
    shift 2
    mkdir "$folder/$name"
    cp "$root/deploy/redis/redis.conf" "$folder/$name/conf" # sentinels rewrite it
    launch "$name" "$at" redis-server "$folder/$name/conf" --port "$at" --bind 127.0.0.1 \
        --dir "$folder/$name" --set-proc-title no "$@"
}

answers() { redis-cli -e -p "$1" ping; }
says() { redis-cli -p "$1" "$2" "$3" | grep -q "$4"; }
sees_replicas() { [ "$(redis-cli -p "$1" cluster nodes | grep -c ' connected')" = 6 ] && [ "$(redis-cli -p "$1" cluster nodes | grep -c slave)" = 3 ]; }

start_plain() {
    redis redis-1 "$1"
    wait_until "Redis answers" answers "$1"
    # Demos read different variables.
    export REDIS_HOST=127.0.0.1 REDIS_PORT="$1" REDIS_URL="redis://127.0.0.1:$1/0" USE_REDIS=1
}

start_sentinel() {
    redis redis-1 "$1"
    wait_until "the master answers" answers "$1"
    redis redis-2 "$2" --replicaof 127.0.0.1 "$1"
    redis redis-3 "$3" --replicaof 127.0.0.1 "$1"
    # A sentinel asks the master for its replicas at once, and then every ten seconds.
    wait_until "the replicas follow the master" says "$1" info replication connected_slaves:2
    wait_until "a replica is in step" says "$2" info replication master_link_status:up
    wait_until "a replica is in step" says "$3" info replication master_link_status:up
    number=0
    for at in "$4" "$5" "$6"; do
        number=$((number + 1))
        mkdir "$folder/sentinel-$number"
        sed "s/172\.30\.67\.11 6379/127.0.0.1 $1/" "$root/deploy/redis/sentinel.conf" >"$folder/sentinel-$number/conf"
        launch "sentinel-$number" "$at" redis-server "$folder/sentinel-$number/conf" --sentinel \
            --port "$at" --bind 127.0.0.1 --dir "$folder/sentinel-$number" --set-proc-title no
    done
    for at in "$4" "$5" "$6"; do
        wait_until "the sentinels see each other" says "$at" info sentinel slaves=2,sentinels=3
    done
    export REDIS_SENTINEL_HOSTS="127.0.0.1:$4,127.0.0.1:$5,127.0.0.1:$6" REDIS_MASTER_NAME=mymaster
    # Otherwise a REDIS_URL in .env would override the sentinels.
    export RATE_LIMITER_STORE="redis+sentinel://$REDIS_SENTINEL_HOSTS/mymaster/0"
}

start_cluster() {
    number=0 nodes=''
    for at in "$@"; do
        number=$((number + 1))
        redis "redis-$number" "$at" --cluster-enabled yes --cluster-node-timeout 2000 --cluster-config-file nodes.conf
        nodes="$nodes 127.0.0.1:$at"
    done
    for at in "$@"; do wait_until "node $at answers" answers "$at"; done
    # shellcheck disable=SC2086 # one word for each node
    redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes >"$folder/create.log" 2>&1 ||
        die "the cluster was not made: $(last_words create)"
    for at in "$@"; do
        wait_until "node $at sees the cluster whole" says "$at" cluster info cluster_state:ok
        wait_until "node $at sees who replicates whom" sees_replicas "$at"
    done
    RATE_LIMITER_STORE="redis+cluster://$(echo "$nodes" | sed 's/^ //; s/ /,/g')"
    export RATE_LIMITER_STORE
}

# --- The demo ---

start_demo() {
    export DEMO="$demo" API_HOST=127.0.0.1 API_PORT="$port" WEB_CONCURRENCY="$workers"
    if [ "$demo" = distributed ]; then
        export RATE_LIMIT_RULES_PATH="${RATE_LIMIT_RULES_PATH:-demo/distributed/rate_limits.json}"
        export RATE_LIMITER_LOG="$folder/decisions.log"
    fi
    # Workers share their metrics in this folder.
    mkdir "$folder/metrics"
    export PROMETHEUS_MULTIPROC_DIR="$folder/metrics"
    cd "$root"
    if [ "$server" = gunicorn ]; then
        launch "$demo" "$port" "$python" -m gunicorn --config "$root/deploy/gunicorn.conf.py"
    else
        UVICORN_PROXY_HEADERS=false UVICORN_LIFESPAN=on launch "$demo" "$port" "$python" -m uvicorn --app-dir "$root" \
            --host 127.0.0.1 --port "$port" --workers "$workers" "demo.$demo.app:app"
    fi
    wait_until "the demo is healthy" healthy
}

healthy() {
    "$python" "$root/deploy/healthcheck.py" "http://127.0.0.1:$port/health" || return 1
    if [ "$demo" = service ]; then says_connected; fi
}

says_connected() {
    "$python" - "http://127.0.0.1:$port/health" <<'PYTHON'
import json, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=3) as answer:
    health = json.load(answer)
sys.exit(0 if health["redis"] == "connected" else "Redis is " + health["redis"])
PYTHON
}

# Print COUNT ports for Redis, or one line about the port that is in use.
choose_ports() { # choose_ports COUNT
    "$python" - "$port" "$1" "$redis_port" <<'PYTHON'
import contextlib, socket, sys

port, count, first = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with contextlib.ExitStack() as held:

    def hold(port: int) -> int:
        probe = held.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            sys.exit(f"start.sh: port {port} cannot be used: {error}")
        return probe.getsockname()[1]

    hold(port)
    chosen = [hold(int(first) + i) for i in range(count)] if first else []
    while len(chosen) < count:
        # The cluster bus uses the port plus 10000.
        if (free := hold(0)) < 55536:
            chosen.append(free)
    print(*chosen)
PYTHON
}

# --- Main ---

show() {
    url=http://127.0.0.1:$port
    echo
    while read -r pid name at; do
        printf '  %-12s 127.0.0.1:%-6s process %s\n' "$name" "$at" "$pid"
    done <"$folder/pids"
    printf '\nTry in another terminal:\n\n'
    case $demo in
    service)
        echo "  curl -i -X POST $url/api/resource -H 'X-API-Key: testuser'"
        echo "  curl $url/rate-limit/status -H 'X-API-Key: testuser'"
        echo "  curl $url/health"
        echo "  curl $url/metrics"
        ;;
    gateway) echo "  curl -i $url/v1/hello -H 'x-api-key: demo'" ;;
    quickstart) echo "  curl -i $url/api/data" ;;
    fastapi | flaskapp) echo "  curl -i $url/api/ping" ;;
    *) echo "  curl -i $url/" ;;
    esac
    printf "  deploy/start.sh stop --port %s\n\nCtrl-C stops it all. Logs are in %s until then.\n" "$port" "$folder"
}

# A Redis may end, since the others replace it. The demo may not.
watch() {
    missed=''
    while [ -f "$state" ]; do
        while read -r pid name _; do
            if ! kill -0 "$pid" 2>/dev/null; then
                [ "$name" != "$demo" ] || die "$name ended: $(last_words "$name")"
                case $missed in *" $name "*) continue ;; esac
                missed="$missed $name "
                echo "start.sh: $name ended; the others go on" >&2
            fi
        done <"$folder/pids"
        sleep 0.2
    done
}

read_arguments "$@"
if [ "$topology" = stop ]; then
    stop
    exit 0
fi

command -v redis-server >/dev/null || "$root/.ci/system-packages" stack || die "redis-server is missing"
python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; from importlib.util import find_spec as find; sys.exit(not all(map(find, sys.argv[1:])))' \
    rate_limiter fastapi flask redis gunicorn uvicorn_worker ||
    die "$python lacks what the demos need: pip install '.[demo]', or make .venv/demo.stamp"

state=$root/build/stack/$port
if [ -f "$state" ]; then state='' && taken; fi
case $topology in plain) ports=$(choose_ports 1) ;; *) ports=$(choose_ports 6) ;; esac

trap 'status=$?; clean_up; exit $status' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
folder=$(mktemp -d "${TMPDIR:-/tmp}/rate-limiter-stack.XXXXXX")
mkdir -p "$root/build/stack"
# Only one of two scripts that start at once can create the file.
(set -C && echo "$$ $folder" >"$state") 2>/dev/null || { state='' && taken; }

# Only this script sets the address of Redis.
unset RATE_LIMITER_STORE REDIS_URL REDIS_HOST REDIS_PORT REDIS_DB REDIS_PASSWORD REDIS_SENTINEL_HOSTS PORT
echo "Starting $demo with Redis: $topology"
# shellcheck disable=SC2086 # one word for each port
"start_$topology" $ports
start_demo
show
watch
