#!/bin/sh
# The primary, in $DATA/primary.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
at=$DATA/primary
if [ ! -e "$at" ]; then
    rm -rf "$at.new"
    mkdir -p "$DATA"
    initdb --pgdata "$at.new" --username postgres --auth trust >&2
    # The other hosts of the project.
    echo "host all,replication all samenet trust" >>"$at.new/pg_hba.conf"
    mv "$at.new" "$at"
fi
exec postgres -D "$at" -c listen_addresses='*' -c unix_socket_directories=
