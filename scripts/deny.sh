#!/usr/bin/env bash
# Checks the dependencies (deny.toml): their licences, bans and sources, and the advisories about
# them if the database of advisories can be had. Installs cargo-deny below target/tools.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly version=0.20.2
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/tools
deny=$tools/bin/cargo-deny

if [ "$("$deny" --version 2>/dev/null || true)" != "cargo-deny $version" ]; then
    echo "deny: building cargo-deny $version"
    # Not optimised: the check takes seconds, an optimised build minutes more.
    CARGO_TARGET_DIR=$tools/build CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_NET_RETRY=10 \
        cargo install cargo-deny --version "=$version" --locked --profile dev --root "$tools" --quiet
    rm -rf "$tools/build"
fi

# `deny.sh install` only installs.
[ "${1:-}" != install ] || exit 0
"$deny" --locked check --hide-inclusion-graph licenses bans sources
if said=$(timeout 60 "$deny" fetch db 2>&1); then
    "$deny" --locked check advisories
else
    printf '%s\n' "$said" | head -3
    echo "deny: the database of advisories cannot be had here: advisories are not checked"
fi
