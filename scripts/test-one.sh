#!/bin/sh
# Runs the tests of the workspace whose names contain the argument, in the dev profile.
set -eu
cd "$(dirname "$0")/.."
[ -n "${1:-}" ] || {
    echo 'usage: make test-one T=part_of_a_test_name' >&2
    exit 2
}
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --workspace --locked --lib --test it --test house -E "test($1)"
fi
exec cargo test --workspace --locked --lib --test it --test house -- "$1"
