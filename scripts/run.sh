#!/bin/sh
# Builds and runs the shop. Installs PostgreSQL if it is missing.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh
. scripts/progress.sh

need_rust
need_compiler
need_postgres
build_with_progress --workspace --release --locked --bin shop
exec "${CARGO_TARGET_DIR:-target}/release/shop" "$@"
