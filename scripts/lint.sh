#!/bin/sh
# Lints all targets in the release profile, which the tests use as well: build scripts, such as that
# of the TLS library, then run once instead of once for each profile.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh

need_rust
need_components
need_compiler
exec cargo clippy --workspace --all-targets --release --locked -- -D warnings
