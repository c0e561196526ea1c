#!/bin/sh
# The node that this host is; what it keeps is in $DATA/NAME.
set -eu
config=$PWD/redis.conf
mkdir -p "$DATA/$(uname -n)"
cd "$DATA/$(uname -n)"
exec redis-server "$config"
