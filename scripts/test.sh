#!/usr/bin/env bash
# All tests: run by root, as root and once more as an ordinary user; run by an ordinary user, as that user.
set -euo pipefail
cd "$(dirname "$0")/.."

triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

say() { printf '\n== %s\n' "$*"; }

# Programs inherit ignored signals, and a shell ignores SIGINT in what it starts in the background: tests that interrupt would wait for nothing.
cargo() { env --default-signal=INT,QUIT cargo "$@"; }

readonly target=${CARGO_TARGET_DIR:-target}
smoke=("$PWD/scripts/dist-smoke.sh" "$target/dist/imsup" "$target/guests")

say "the static imsup, as $(id -un)"
"${smoke[@]}"
say "cargo test --workspace, as $(id -un)"
cargo test --workspace
if [ "$(id -u)" -eq 0 ]; then
    say "what root can do besides"
    cargo test -p imsup --test root --test root_limits --test root_images --test container --test strangers
    say "a stack of images under docker compose and under imsup"
    scripts/compare-compose.sh "$target/debug/imsup" "$target/images" "$target/compose/docker-compose"
    say "the end-to-end tests once more, as an ordinary user without any privilege"
    scripts/as-user.sh "${smoke[@]}"
    export "CARGO_TARGET_${triple}_RUNNER=$PWD/scripts/as-user.sh"
    cargo test -p imsup -p imsup-supervisor -p imsup-linux -p imsup-images
    say "all passed, as root and as an ordinary user"
else
    say "all passed as $(id -un); the root half (root's extras, and everything once more as root) runs with: sudo make test"
fi
