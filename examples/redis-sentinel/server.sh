#!/bin/sh
# server.sh [LINE]: redis-server in $DATA/NAME, NAME being this host's. Its configuration (redis.conf, LINE) is copied once and then its own: Redis and
# Sentinel write into it who is master.
set -eu
name=$(uname -n) from=$PWD/redis.conf
mkdir -p "$DATA/$name"
cd "$DATA/$name"
if [ ! -e redis.conf ]; then
    { cat "$from" && printf '%s\n' "replica-announce-ip $name" "$@"; } >new
    mv new redis.conf
fi
exec redis-server redis.conf
