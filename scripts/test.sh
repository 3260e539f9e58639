#!/bin/sh
# Checks everything, step by step, and stops at the first that fails.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh

steps=7
number=0

# step HEADING COMMAND…
step() {
    heading=$1
    shift
    number=$((number + 1))
    printf '\n== %d of %d: %s\n' "$number" "$steps" "$heading"
    began=$(date +%s)
    status=0
    "$@" || status=$?
    printf '== %s: %d s\n' "$heading" "$(($(date +%s) - began))"
    [ "$status" = 0 ] || stop "$heading: failed"
}

need_rust
need_components
need_compiler
need_postgres
need_rabbitmq
need_chromium
step 'format' cargo fmt --check
step 'lints' cargo clippy --workspace --all-targets --locked -- -D warnings
step 'release binary' cargo build --release --locked --bin shop
step 'make run' sh scripts/run.sh --version
step 'tests' cargo test --workspace --release --locked
export SHOP_TESTS_REPLICAS=2
step 'tests on two replicas, in turns' cargo test --workspace --release --locked --test it -- \
    users:: catalog:: orders:: events:: flow:: idempotency:: dead_letters:: ledger:: resync:: operations::
unset SHOP_TESTS_REPLICAS
step 'torture, 60 s' cargo run --release --locked --bin torture -- \
    --seconds 60 --clients 16 --rate 150 --every 2 --seed 7
