#!/bin/sh
# The replica, in $DATA/replica: copied from the primary at its first boot.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
at=$DATA/replica
if [ ! -e "$at" ]; then
    rm -rf "$at.new"
    mkdir -p "$DATA"
    # This boots the primary, which listens a moment before it answers.
    until pg_isready --quiet --host primary; do sleep 0.1; done
    pg_basebackup --host primary --username postgres --pgdata "$at.new" --write-recovery-conf --checkpoint fast >&2
    mv "$at.new" "$at"
fi
exec postgres -D "$at" -c listen_addresses='*' -c unix_socket_directories=
