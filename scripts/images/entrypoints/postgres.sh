#!/bin/sh
# As the entrypoint of postgres's official image: a cluster is made in an empty directory, by a
# server that listens at no address, before the server that clients reach.
set -e
file_env() {
    name=$1
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        eval "export $name=\$(cat \"\$file\")"
    fi
}
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    file_env POSTGRES_PASSWORD
    : "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
    if [ -z "$POSTGRES_PASSWORD" ]; then
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        exit 1
    fi
    chmod 700 "$PGDATA"
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 --no-sync >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -o "-c listen_addresses=''" -w start >/dev/null
    if [ "$POSTGRES_DB" != postgres ]; then
        psql -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
    fi
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sh) echo "$0: running $script" && sh "$script" ;;
            *.sql) echo "$0: running $script" && psql -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$script" ;;
        esac
    done
    pg_ctl -m fast -w stop >/dev/null
    echo "PostgreSQL init process complete; ready for start up."
    set -- "$@" -c listen_addresses='*'
else
    [ "$1" != postgres ] || set -- "$@" -c listen_addresses='*'
fi
exec "$@"
