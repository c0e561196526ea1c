#!/bin/sh
# As the entrypoint of redis's official image: root gives the directory to redis, and becomes redis.
set -e
if [ "${1#-}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi
umask 0077
# The official image has a server whose protected mode is off as it is built.
[ "$1" != redis-server ] || set -- "$@" --protected-mode no
exec "$@"
