#!/bin/sh
# Lints all targets. The release profile is used because the tests use it: build scripts, such as the
# one that compiles the TLS library, then run once instead of once for each profile.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh

need_rust
need_components
need_compiler
exec cargo clippy --workspace --all-targets --release --locked -- -D warnings
