#!/usr/bin/env bash
# Puts Apache Spark (Python's package pyspark, which carries all of it) into the directory that is named, unless it is there; about 500 MB.
# examples/spark/ and its tests run it. pip gets it from wherever the machine's configuration says.
set -euo pipefail

readonly version=4.3.0
readonly directory=${1:?usage: scripts/spark.sh DIRECTORY}

[ "$(cat "$directory/version" 2>/dev/null)" != "$version" ] || exit 0
echo "setup: installing pyspark $version into $directory"
rm -rf "$directory"
# Every user may read it: the tests run as one as well.
umask 022
# pip does not go on with a download that breaks off, and this one is long.
for try in {1..3}; do
    rm -rf "$directory.new"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-compile --retries 10 --timeout 60 \
        --target "$directory.new" "pyspark==$version" && break
    [ "$try" -lt 3 ] || exit 1
done
echo "$version" >"$directory.new/version"
mv "$directory.new" "$directory"
