#!/usr/bin/env bash
# examples/images under docker compose and under imsup: the same requests must be answered the same. Root only.
# Usage: compare-compose.sh IMSUP IMAGES COMPOSE (an imsup, the directory of scripts/images/make.py, a docker compose of version 2)
#
# dockerd is one of this script alone: its files are in a directory that is removed, and its containers, bridge and
# processes in namespaces that end with the script.
set -euo pipefail

usage='usage: compare-compose.sh IMSUP IMAGES COMPOSE'
imsup=$(realpath "${1:?$usage}") images=$(realpath "${2:?$usage}") compose=$(realpath "${3:?$usage}")
readonly imsup images compose stack=$PWD/examples/images
export SHOP_PORT=8080 COMPOSE_PROJECT_NAME=compared

# What a user of the stack does; `run` is docker compose, or imsup. Prints answers only.
use() {
    run up -d >/dev/null
    ask
    ask
    ask -X POST
    run exec -T cache redis-cli get visits
    run exec -T cache stat -c '%U %a' /data /data/appendonlydir
    run exec -T db stat -c '%U %a' /var/lib/postgresql/data /run/secrets/password
    run exec -T db psql -U shop -At -c 'SELECT * FROM orders'
    run exec -T app sh -c 'id; pwd; touch /app/x 2>/dev/null || echo read-only; cat /run/secrets/password; env | grep -E "^(PG|REDIS|PYTHON|PATH)" | sort'
    run exec -T web sh -c 'id -un; cat /proc/1/comm; hostname -f >/dev/null; wget -q -O - http://app:8000/'
    run down >/dev/null
    run up -d >/dev/null
    ask
    ask -X POST
    run exec -T db psql -U shop -At -c 'SELECT item, cents FROM prices ORDER BY 1'
    run down -v >/dev/null
}

# A server that was started a moment ago may refuse: its `up` does not wait for it (docker compose's clients try again).
ask() { curl -sS --fail --max-time 60 --retry 20 --retry-delay 1 --retry-all-errors "$@" "http://127.0.0.1:$SHOP_PORT/tea"; }

# In namespaces of its own.
under_docker() {
    directory=$1
    ip link set lo up
    mount -t tmpfs tmpfs /run
    mkdir /run/upper /run/work
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
    [ ! -d /opt ] || mount -t tmpfs tmpfs /opt
    export DOCKER_HOST=unix://$directory/sock HOME=$directory
    dockerd --data-root "$directory/data" --exec-root "$directory/exec" --pidfile "$directory/pid" --host="$DOCKER_HOST" \
        --cgroup-parent="${directory##*/}" --storage-driver=vfs --group= >"$directory/log" 2>&1 &
    for _ in {1..300}; do
        docker version >/dev/null 2>&1 && break
        sleep 0.1
    done
    for image in nginx python redis postgres; do
        docker load -q -i "$images/$image.tar" >/dev/null
    done
    run() { "$compose" --progress quiet "$@"; }
    cd "$stack"
    use
}

under_imsup() {
    export IMSUP_RUNTIME_DIR=$1/run IMSUP_STATE_DIR=$1/state IMSUP_IMAGE_DIR=$1/images
    for image in nginx python redis postgres; do
        "$imsup" load "$images/$image.tar" >/dev/null 2>&1
    done
    run() { "$imsup" "$@"; }
    cd "$stack"
    trap '"$imsup" down -v >/dev/null 2>&1 || true' EXIT
    use
}

# Either half is a process of its own, which ends at its first failure.
case ${4:-} in
    --under-docker)
        under_docker "$5"
        exit
        ;;
    --under-imsup)
        under_imsup "$5"
        exit
        ;;
esac
directory=$(mktemp -d "${TMPDIR:-/tmp}/imsup-compare.XXXXXX")
finish() {
    status=$?
    find /sys/fs/cgroup -depth -type d -path "*/${directory##*/}*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$directory"
    exit "$status"
}
trap finish EXIT
mkdir "$directory/imsup"
failed() {
    echo "compare-compose: it failed under $1:" >&2
    tail -n 30 "$2" >&2
    exit 1
}
start=$SECONDS
unshare --net --mount --pid --fork --mount-proc --kill-child \
    "$0" "$imsup" "$images" "$compose" --under-docker "$directory" >"$directory/docker.txt" 2>"$directory/docker.err" ||
    failed "docker compose" "$directory/docker.err"
docker=$((SECONDS - start)) start=$SECONDS
"$0" "$imsup" "$images" "$compose" --under-imsup "$directory/imsup" >"$directory/imsup.txt" 2>"$directory/imsup.err" ||
    failed imsup "$directory/imsup.err"
diff -u --label "docker compose" --label imsup "$directory/docker.txt" "$directory/imsup.txt"
lines=$(wc -l <"$directory/docker.txt")
echo "compare-compose: the same $lines lines of answers, from docker compose in $docker s, from imsup in $((SECONDS - start)) s"
