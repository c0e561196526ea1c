#!/usr/bin/env bash
# The demo: a stack of six services with images, one request and the cascade it causes, their sleep, the request that wakes them, and a kill.
# Ends clean, as root and as a user.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly imsup=${1:?usage: demo.sh IMSUP IMAGES}
images=$(realpath "${2:?usage: demo.sh IMSUP IMAGES}")
readonly images
directory=$(mktemp -d "${TMPDIR:-/tmp}/imsup-demo.XXXXXX")
export IMSUP_RUNTIME_DIR=$directory/run IMSUP_STATE_DIR=$directory/state IMSUP_IMAGE_DIR=$directory/images
# A port that nobody has.
SHOP_PORT=$(python3 -c 'import socket; free = socket.create_server(("127.0.0.1", 0)); print(free.getsockname()[1])')
export SHOP_PORT
project=demo-$$
up=

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }

finish() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$up" ]; then
        if [ "$status" -ne 0 ]; then
            printf '%sThe demo failed; what the broker and the hosts say:%s\n' "$red" "$plain" >&2
            "$imsup" events -p "$project" >&2 || true
            "$imsup" logs -p "$project" >&2 || true
        fi
        "$imsup" down -v -p "$project" >/dev/null 2>&1 || true
    fi
    rm -rf "$directory"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Processes that carry the demo's directory in their environment, but for this script's own. Without a pipe, whose parts would count.
left_over() {
    local file text
    for file in /proc/[0-9]*/environ; do
        [ "$file" = "/proc/$$/environ" ] && continue
        { text=$(tr '\0' '\n' <"$file"); } 2>/dev/null || continue
        case $text in *"IMSUP_STATE_DIR=$directory/state"*) printf '%s ' "${file//[!0-9]/}" ;; esac
    done
}

# Waits until all of these hosts sleep, as the events tell.
await_sleep() {
    local line host events follower
    local -A asleep=()
    exec {events}< <(exec timeout 60 "$imsup" events --follow --format json -p "$project" 2>/dev/null)
    follower=$!
    while [ "${#asleep[@]}" -lt $# ] && read -r line <&"$events"; do
        for host in "$@"; do
            case $line in
                *"\"host\":\"$host\",\"event\":\"suspend\""*) asleep[$host]=1 ;;
                *"\"host\":\"$host\",\"event\":\"wake\""*) unset "asleep[$host]" ;;
            esac
        done
    done
    kill "$follower" 2>/dev/null || true
    exec {events}<&-
    [ "${#asleep[@]}" -eq $# ] || { printf '%sonly these sleep after a minute: %s%s\n' "$red" "${!asleep[*]}" "$plain" >&2; return 1; }
}

ask() {
    show "curl $*"
    curl -sS --fail --max-time 60 -w "${green}answered in %{time_total} s$plain\n" "$@"
}

mkdir "$directory/stack"
cp examples/images/* "$directory/stack/"
# Programs that run as other users read them too.
chmod -R a+rX "$directory/stack"
cd "$directory/stack"

say "Four images, from archives as of docker save. No docker runs, and none is needed:"
for image in nginx python redis postgres; do
    show "imsup load $image.tar"
    "$imsup" load "$images/$image.tar" 2>/dev/null
done

say "A compose file of six services: nginx, an application, a worker, a migration, redis, PostgreSQL."
show "imsup up -d"
"$imsup" up -d -p "$project" >/dev/null
up=1

say "Every host exists: it has a name, an address, and ports that can be connected to. Only the worker, to which nobody connects, starts by itself:"
show "imsup ps"
"$imsup" ps -p "$project"

url="http://localhost:$SHOP_PORT"
say "One request, from an ordinary curl:"
ask "$url/"

say "The connection booted web, whose connection booted app, for which the database had to be made, healthy and migrated:"
show "imsup events"
"$imsup" events -p "$project"

say "The same request again, with everything awake:"
ask "$url/"

say "An order: the worker waits for one at a list in redis, and stores it in PostgreSQL:"
ask -X POST "$url/tea"

say "Nobody asks any more. Whoever is idle for a second (idle_after: 1s) is suspended:"
await_sleep web app worker cache db
show "imsup ps"
"$imsup" ps -p "$project"

say "The worker still waits, asleep, with its connection to redis open:"
show "imsup why worker"
"$imsup" why -p "$project" worker

say "The next order wakes the whole cascade, the worker by a byte from redis:"
ask -X POST "$url/tea"

say "Who booted and woke whom, how long after the beginning, and what each took:"
show "imsup events --tree"
"$imsup" events --tree -p "$project"

say "The database is killed. The next connection boots it, and nothing is lost:"
show "imsup kill db"
"$imsup" kill -p "$project" db
ask "$url/"
show "imsup exec db psql -U shop -c 'SELECT * FROM orders'"
"$imsup" exec -p "$project" db psql -U shop -c 'SELECT * FROM orders'

say "What it all has used:"
show "imsup usage"
"$imsup" usage -p "$project"

say "And everything is taken away, the volumes as well:"
show "imsup down -v"
"$imsup" down -v -p "$project"
up=
if [ -e "$IMSUP_RUNTIME_DIR/$project" ] || [ -e "$IMSUP_STATE_DIR/$project" ]; then
    printf '%sfiles are left:%s\n' "$red" "$plain" >&2
    find "$directory/run" "$directory/state" >&2
    exit 1
fi
remaining=$(left_over)
if [ -n "$remaining" ]; then
    printf '%sprocesses are left: %s%s\n' "$red" "$remaining" "$plain" >&2
    exit 1
fi
printf '%sNo process, no socket, no file is left.%s\n' "$green" "$plain"
