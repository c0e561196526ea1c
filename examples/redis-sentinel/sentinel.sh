#!/bin/sh
# redis-sentinel in $DATA/NAME, NAME being this host's. Its configuration (sentinel.conf, but its own line) is copied once and then its own: Sentinel
# writes into it what has become of the master.
set -eu
name=$(uname -n) from=$PWD/sentinel.conf
mkdir -p "$DATA/$name"
cd "$DATA/$name"
if [ ! -e sentinel.conf ]; then
    {
        sed -n "s/^sentinel known-sentinel main $name [0-9]* /sentinel myid /p" "$from"
        echo "sentinel announce-ip $name"
        grep -v "known-sentinel main $name " "$from"
    } >new
    mv new sentinel.conf
fi
exec redis-sentinel sentinel.conf
