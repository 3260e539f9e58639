#!/bin/sh
# Runs tests/house with rustc alone: it uses the standard library only, so that it needs no other
# crate and takes two seconds after any change. `cargo test -p shop-tests --test house` is the same.
set -eu
cd "$(dirname "$0")/.."
binary=${CARGO_TARGET_DIR:-target}/house
mkdir -p "${binary%/*}"
rustc --edition 2024 --test -C opt-level=1 -o "$binary" tests/house/main.rs
exec "$binary" --quiet "$@"
