#!/usr/bin/env bash
# Builds an imsup that needs no shared library as TARGET-DIRECTORY/dist/imsup, with its checksum beside it.
# Usage: dist.sh TARGET-DIRECTORY [musl|gnu]; without a C library: musl if the toolchain has that target or rustup gets it, else gnu.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=${1:?usage: dist.sh TARGET-DIRECTORY [musl|gnu]} libc=${2:-}
machine=$(rustc -vV | sed -n 's/^host: \([^-]*\)-.*/\1/p')

has_musl() { [ -d "$(rustc --print target-libdir --target "$machine-unknown-linux-musl")" ]; }
get_musl() { command -v rustup >/dev/null && timeout 120 rustup target add "$machine-unknown-linux-musl" >/dev/null 2>&1; }

if [ "$libc" != gnu ] && ! has_musl && ! get_musl; then
    if [ "$libc" = musl ]; then
        echo "dist: this toolchain has no musl: rustup target add $machine-unknown-linux-musl" >&2
        exit 1
    fi
    echo "dist: this toolchain has no musl, and rustup cannot get it: linking glibc"
    libc=gnu
fi
triple=$machine-unknown-linux-${libc:-musl}
# rustc links musl statically by default, and glibc if it is told to. Because of --target, the flag is not for build scripts and macros.
if [ "$libc" = gnu ]; then
    export "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_RUSTFLAGS=-C target-feature=+crt-static"
fi
CARGO_TARGET_DIR="$directory" cargo build --release -p imsup --target "$triple"
mkdir -p "$directory/dist"
install -m 755 "$directory/$triple/release/imsup" "$directory/dist/imsup"
if needed=$(readelf -Wld "$directory/dist/imsup" | grep -E 'INTERP|NEEDED'); then
    echo "dist: $directory/dist/imsup is not static: $needed" >&2
    exit 1
fi
(cd "$directory/dist" && sha256sum imsup >imsup.sha256)
echo "dist: $directory/dist/imsup, $triple, $(stat -c %s "$directory/dist/imsup") bytes"
