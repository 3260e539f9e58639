#!/bin/sh
# Runs one shard of the tests: test-shard.sh SHARD SHARDS. The modules of the integration tests are
# distributed over the shards. The first shard also runs the unit, house, embedded and documentation
# tests, the last one the crash test.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh

shard=${1:?usage: test-shard.sh SHARD SHARDS}
shards=${2:?usage: test-shard.sh SHARD SHARDS}
[ "$shard" -ge 1 ] || stop "shards are numbered from 1"
[ "$shard" -le "$shards" ] || stop "shard $shard of $shards does not exist"

need_rust
need_compiler
need_postgres
need_rabbitmq
need_chromium
cargo build --workspace --release --locked --bin shop
if [ "$shard" = 1 ]; then
    cargo test --workspace --release --locked --lib --bins --examples \
        --test house --test embedded
    cargo test --workspace --release --locked --doc
fi
[ "$shard" != "$shards" ] || cargo test --workspace --release --locked --test crash

modules=$(sed -n 's/^mod \([a-z_]*\);$/\1::/p' tests/it/main.rs |
    awk -v shard="$shard" -v shards="$shards" 'NR % shards == shard % shards')
[ -n "$modules" ] || stop 'no test modules found in tests/it/main.rs'
# shellcheck disable=SC2086 # one word for each module
exec cargo test --workspace --release --locked --test it -- $modules
