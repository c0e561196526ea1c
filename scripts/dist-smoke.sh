#!/usr/bin/env bash
# Runs the static imsup in a root directory that has nothing else: no C library, no shell, no /etc, no /tmp. Two hosts boot on a connect, and `down`
# leaves nothing. Usage: dist-smoke.sh IMSUP GUESTS; needs bwrap, and the busybox of busybox-static, which is only the driver's.
set -euo pipefail

readonly imsup=${1:?usage: dist-smoke.sh IMSUP GUESTS} guests=${2:?usage: dist-smoke.sh IMSUP GUESTS}
die() { echo "dist-smoke: $*" >&2; exit 1; }

for program in bwrap busybox readelf; do
    command -v "$program" >/dev/null || die "$program is missing: scripts/setup.sh installs it"
done
busybox=$(command -v busybox)
for program in "$imsup" "$guests/guest-musl" "$busybox"; do
    [ -x "$program" ] || die "there is no $program: make dist guests"
    # Neither a program interpreter nor a shared library.
    ! readelf -Wld "$program" | grep -E 'INTERP|NEEDED' || die "$program is not static"
done

root=$(mktemp -d "${TMPDIR:-/tmp}/imsup-dist.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root"/{bin,driver,dev,proc}
cp "$imsup" "$root/bin/imsup"
cp "$guests/guest-musl" "$root/bin/guest"
cp "$busybox" "$root/driver/busybox"
cat >"$root/compose.yaml" <<'COMPOSE'
name: bare
services:
  front: { command: [guest, --tcp, "8080", --upstream, "back:9000"], expose: ["8080"] }
  back: { command: [guest, --tcp, "9000"], expose: ["9000"] }
COMPOSE
cat >"$root/driver/script" <<'DRIVER'
set -eu
busybox() { /driver/busybox "$@"; }
fail() {
    echo "dist-smoke: $*" >&2
    imsup events >&2 || true
    imsup logs >&2 || true
    exit 1
}
expect() { # WHAT, EXPECTED (a pattern), FOUND
    case "$3" in $2) ;; *) fail "$1: expected '$2', found '$3'" ;; esac
}
files() { busybox find / -path /proc -prune -o -path /dev -prune -o -print | busybox sort; }
# The executables that run besides the driver's.
processes() {
    for process in /proc/[0-9]*; do busybox readlink "$process/exe" || true; done | busybox grep -v '^/driver/busybox$' || true
}
# Where projects are, and the memory of those that were not forgotten: imsup makes the directories that are missing.
user=$(busybox id -u)
case $user in
    0) kept='/run /run/imsup /var /var/lib /var/lib/imsup /var/lib/imsup/projects.json' ;;
    *) kept="/tmp /tmp/imsup-$user /tmp/imsup-$user-state /tmp/imsup-$user-state/projects.json" ;;
esac

expect version 'imsup *' "$(imsup --version)"
before=$(files)
expected=$(printf '%s\n' "$before" $kept | busybox sort)
imsup up -d
expect "before anybody connects" '*front*imaginary*back*imaginary*' "$(imsup ps)"
answer=$(echo hello | busybox timeout 60 /driver/busybox nc "$(imsup resolve front)" 8080)
expect "the answer of front, which asks back" 'host=front *upstream=<host=back *>' "$answer"
expect "after the connect" '*front*running*back*running*' "$(imsup ps)"
imsup down --forget
expect "processes after down" '' "$(processes)"
expect "files after down" "$expected" "$(files)"
DRIVER

# A PID namespace of its own ends with its first process; the network is a loopback interface alone.
room=(bwrap --unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --die-with-parent --as-pid-1 --clearenv --setenv PATH /bin)
"${room[@]}" --bind "$root" / --proc /proc --dev /dev --chdir / /driver/busybox sh /driver/script

refuses() { # WHAT IS MISSING, WHAT IS SAID (a pattern), OPTION OF BWRAP...
    local missing=$1 expected=$2 said
    shift 2
    if said=$("${room[@]}" "$@" --chdir / /bin/imsup up -d 2>&1); then
        die "imsup up without $missing does not fail: $said"
    fi
    # shellcheck disable=SC2053 # a pattern
    [[ $said == $expected ]] || die "imsup up without $missing: expected '$expected', found '$said'"
}
refuses /dev "*standard input /dev/null cannot be used*" --bind "$root" / --proc /proc
refuses /proc "*Is /proc mounted?*" --bind "$root" / --dev /dev
refuses "a place to write to" "*set IMSUP_RUNTIME_DIR to a directory of your own*" --ro-bind "$root" / --proc /proc --dev /dev
echo "dist-smoke: imsup runs in a root without anything else, and leaves nothing behind (as $(id -un))"
