#!/bin/sh
# As the entrypoint of nginx's official image: scripts of /docker-entrypoint.d before the server.
set -e
if [ "$1" = nginx ]; then
    for script in $(find /docker-entrypoint.d -name '*.sh' | sort); do
        echo "$0: running $script"
        sh "$script"
    done
fi
exec "$@"
