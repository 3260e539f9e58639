#!/bin/sh
# Checks the dependencies against deny.toml. SHOP_OFFLINE=1 skips the advisories, whose database
# is a git repository on the network.
set -eu
cd "$(dirname "$0")/.."
checks='bans licenses sources'
[ -n "${SHOP_OFFLINE:-}" ] || checks="advisories $checks"
# shellcheck disable=SC2086 # one word for each check
exec cargo deny --locked check $checks
