#!/usr/bin/env bash
# The first command: installs what is missing, builds Penstock, and runs the lab.
set -euo pipefail

usage() {
  cat <<'HELP'
Installs what is missing, builds Penstock, and runs the lab. Can be run again at any time.

  ops/lab.sh              build the lab, send real traffic, check, show, take it down
  ops/lab.sh --keep       the same, and leave it up to play with
  ops/lab.sh --only T2    play some of the rows only
  ops/lab.sh --help       this text

Needs Debian 12 or Ubuntu 22.04 or later, Linux 5.11, root and git, and about 8 GB of disk. What is built lies
in a folder of its own outside of the checkout; CARGO_TARGET_DIR names another one.
HELP
}

for argument; do
  case $argument in
    -h | --help)
      usage
      exit 0
      ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ops/prepare.sh
. ops/prepare.sh

# The shell ends no sooner than the lab, which cleans up by itself.
trap 'exit 130' INT TERM HUP
prepare
say "building (the first time takes long: RocksDB is built from source)"
cargo build --release --locked
say "running the lab"
status=0
"$penstock" lab run "$@" || status=$?
say "to have penstock at hand in this root shell:"
echo "export PATH=\"$(dirname "$penstock"):\$PATH\""
exit "$status"
