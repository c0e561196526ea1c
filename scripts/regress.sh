#!/usr/bin/env bash
# Whether the work tree's imsup is worse than an earlier commit's: builds both, and has them take turns. See bench/README.md.
# Usage: regress.sh TARGET-DIRECTORY [COMMIT [OPTION...]]; without a commit, HEAD where files differ from it, else the one before.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(mkdir -p "$1" && cd "$1" && pwd)
against=${2:-}
shift $(($# < 2 ? $# : 2))
if [ -z "$against" ]; then
    if git diff --quiet HEAD --; then against=HEAD~1; else against=HEAD; fi
fi
if ! commit=$(git rev-parse --verify --quiet "$against^{commit}"); then
    echo "regress: there is no commit '$against'" >&2
    exit 1
fi
echo "after: the work tree at $(git describe --always --dirty); before: $(git log -1 --format='%h %s' "$commit")"

# A tree and a target directory of its own, kept for the next time; 'make clean' removes both.
tree=$target/regress/tree
git worktree prune
if [ -e "$tree/.git" ]; then
    git -C "$tree" checkout --quiet --detach --force "$commit"
else
    git worktree add --quiet --detach "$tree" "$commit"
fi
CARGO_TARGET_DIR=$target/regress/target cargo build --quiet --release --manifest-path "$tree/Cargo.toml" --bin imsup
CARGO_TARGET_DIR=$target cargo build --quiet --release --bin imsup --bin imsup-bench
exec "$target/release/imsup-bench" --imsup "$target/release/imsup" --against "$target/regress/target/release/imsup" \
    --guests "$target/guests" "$@"
