#!/usr/bin/env bash
# Everything that .ci/run checks besides the tests: `make lint`.
set -euo pipefail
cd "$(dirname "$0")/.."

start=$SECONDS
step() { printf '\n==== %s (%d s)\n' "$*" $((SECONDS - start)); }

# The files whose first line names a shell, those included that are not committed yet.
shell_scripts() {
    local file first
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        if [ -f "$file" ] && IFS= read -r first <"$file" && [[ $first =~ ^#!.*sh$ ]]; then
            printf '%s\0' "$file"
        fi
    done
}

step shell scripts
shell_scripts | xargs -0 shellcheck
step formatting
cargo fmt --all --check
step clippy
cargo clippy --workspace --all-targets --locked -- -D warnings
step documentation
# Links to private items are no mistake: the documents are for those who work on imsup.
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
    cargo doc --workspace --no-deps --document-private-items --locked
step layers
cargo test -p imsup-wire --test layering --locked
step dependencies
scripts/deny.sh
