#!/usr/bin/env bash
# The first command: installs what is missing, builds Penstock, and runs the lab.
#
#   ops/lab.sh            build the lab, send real traffic, check, show, take it down
#   ops/lab.sh --keep     the same, and leave it up to play with
#
# Needs Debian 12 or Ubuntu, root and git. Can be run again at any time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ops/prepare.sh
. ops/prepare.sh

prepare
say "building (the first time takes some twenty minutes on two cores: RocksDB is built from source)"
cargo build --release --locked
say "running the lab"
exec "$CARGO_TARGET_DIR/release/penstock" lab run "$@"
