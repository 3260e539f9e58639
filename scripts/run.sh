#!/bin/sh
# Runs the shop, with what it needs.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh

need_rust
need_compiler
need_postgres
exec cargo run --release --locked -- "$@"
