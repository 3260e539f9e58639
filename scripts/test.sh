#!/bin/sh
# Runs every check and test in order and stops at the first failure. Everything is built in the
# release profile, once: lints, the binary under test, the tests and the torture test share it.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh
. scripts/progress.sh

steps=9
number=0
started=$(date +%s)

# step TITLE COMMAND… runs one numbered step and prints its duration and the total.
step() {
    title=$1
    shift
    number=$((number + 1))
    printf '\n== step %d of %d: %s\n' "$number" "$steps" "$title"
    step_started=$(date +%s)
    status=0
    "$@" || status=$?
    now=$(date +%s)
    printf '== step %d of %d: %s: %d s, total %d s\n' \
        "$number" "$steps" "$title" "$((now - step_started))" "$((now - started))"
    [ "$status" = 0 ] || stop "$title: failed"
}

need_rust
need_components
need_compiler
need_postgres
need_rabbitmq
need_chromium
step 'format' cargo fmt --all --check
step 'house rules' sh scripts/house.sh
step 'release binary' build_with_progress --workspace --release --locked --bin shop
step 'make run' sh scripts/run.sh --version
step 'lints' sh scripts/lint.sh
step 'build the tests' build_with_progress --workspace --release --locked --tests
step 'tests' cargo test --workspace --release --locked
export SHOP_TESTS_REPLICAS=2
step 'tests on two replicas' cargo test --workspace --release --locked --test it -- \
    users:: catalog:: orders:: events:: flow:: idempotency:: dead_letters:: ledger:: resync:: \
    operations::
unset SHOP_TESTS_REPLICAS
step 'torture, 60 s' cargo run --release --locked --bin torture -- \
    --seconds 60 --clients 16 --rate 150 --every 2 --seed 7
