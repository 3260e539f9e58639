#!/bin/sh
# Installs rustup for CI jobs that run in a bare Debian container. The toolchain itself is pinned in
# rust-toolchain.toml; rustup's installer is pinned by version and checksum.
set -eu
version=1.28.2
target=x86_64-unknown-linux-gnu
url=https://static.rust-lang.org/rustup/archive/$version/$target/rustup-init
checksum=20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c

curl --proto '=https' --tlsv1.2 --fail --silent --show-error --location "$url" -o /tmp/rustup-init
echo "$checksum  /tmp/rustup-init" | sha256sum --check --quiet
chmod +x /tmp/rustup-init
/tmp/rustup-init -y --no-modify-path --profile minimal --default-toolchain none
"${CARGO_HOME:-$HOME/.cargo}/bin/rustup" toolchain install # what rust-toolchain.toml names
[ -z "${GITHUB_PATH:-}" ] || echo "${CARGO_HOME:-$HOME/.cargo}/bin" >>"$GITHUB_PATH"
