#!/usr/bin/env bash
# cargo's runner for the second half of `make test`: runs a test binary as an ordinary user without any privilege.
set -euo pipefail

readonly uid=65534
user=(setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all --bounding-set=-all)
binary=$1
if ! "${user[@]}" test -x "$binary"; then
    echo "as-user: $binary cannot be run by other users: set CARGO_TARGET_DIR to a directory that every user can enter," >&2
    echo "    for example CARGO_TARGET_DIR=/var/tmp/imsup-target make test" >&2
    exit 1
fi
unset XDG_RUNTIME_DIR XDG_STATE_HOME
readonly path=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games
exec "${user[@]}" env PATH="$path" HOME=/nonexistent USER=nobody LOGNAME=nobody "$@"
