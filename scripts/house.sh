#!/bin/sh
# Runs tests/house with rustc alone, which takes two seconds: the test uses only the standard
# library. `cargo test -p shop-tests --test house` runs the same test.
set -eu
cd "$(dirname "$0")/.."
binary=${CARGO_TARGET_DIR:-target}/house
mkdir -p "${binary%/*}"
rustc --edition 2024 --test -C opt-level=1 -o "$binary" tests/house/main.rs
exec "$binary" --quiet "$@"
