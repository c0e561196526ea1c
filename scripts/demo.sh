#!/usr/bin/env bash
# The demo: a shop of four imaginary machines, one request and the cascade it causes, their sleep, and the request that wakes them. Ends clean,
# as root and as a user.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly imsup=${1:?usage: demo.sh IMSUP}
directory=$(mktemp -d "${TMPDIR:-/tmp}/imsup-demo.XXXXXX")
export IMSUP_RUNTIME_DIR=$directory/run IMSUP_STATE_DIR=$directory/state
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
        "$imsup" down -p "$project" >/dev/null 2>&1 || true
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

mkdir -p "$directory/shop"
cp examples/shop/* "$directory/shop/"
sed -i "s|/tmp/imsup-shop|$directory/nginx|" "$directory/shop/nginx.conf"
cd "$directory/shop"

say "A compose file of four ordinary programs: nginx, a Python app, a node service, redis."
show "imsup up -d"
"$imsup" up -d -p "$project" >/dev/null
up=1

say "Every host exists: it has a name, an address, and ports that can be connected to. No process runs."
show "imsup ps"
"$imsup" ps -p "$project"

url="http://$("$imsup" resolve -p "$project" web):8080/"
say "One request, from an ordinary curl:"
show "curl $url"
curl -sS --fail --max-time 60 -w "${green}answered in %{time_total} s$plain\n" "$url"

say "The connection booted web, whose connection booted app, whose connections booted prices and cache:"
show "imsup events"
"$imsup" events -p "$project"

say "Now they run:"
show "imsup ps"
"$imsup" ps -p "$project"

say "The same request again, with everything awake:"
curl -sS --fail --max-time 60 -w "${green}answered in %{time_total} s$plain\n" "$url"

say "Nobody asks any more. Whoever is idle for a second (idle_after: 1s) is suspended:"
await_sleep web app prices cache
show "imsup ps"
"$imsup" ps -p "$project"

say "They run for their timers only. What would have made one of their threads runnable wakes them:"
show "imsup why cache"
"$imsup" why -p "$project" cache

say "The same request wakes the whole cascade:"
show "curl $url"
curl -sS --fail --max-time 60 -w "${green}answered in %{time_total} s$plain\n" "$url"

say "Who booted and woke whom, how long after the beginning, and what each took:"
show "imsup events --tree"
"$imsup" events --tree -p "$project"

say "What keeps web awake now, and what it all has used:"
show "imsup why web"
"$imsup" why -p "$project" web
show "imsup usage"
"$imsup" usage -p "$project"

say "And everything is taken away:"
show "imsup down"
"$imsup" down -p "$project"
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
