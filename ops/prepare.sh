#!/usr/bin/env bash
# Sourced by lab.sh and test.sh: gets a machine ready to build and run Penstock. Everything here
# looks first and does only what is missing.

say() { printf '==> %s\n' "$*"; }
fail() {
  printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2
  exit 1
}

# A plain `su` leaves the folders of root's programs out.
export PATH="$PATH:/usr/sbin:/sbin"

# Outside of the checkout, so that a clean checkout keeps what was built. One folder per checkout:
# cargo knows a workspace's crates by their relative paths and times alone, and would take what one
# checkout built for fresh in another.
if [[ -z ${CARGO_TARGET_DIR:-} ]]; then
  checkout=$(pwd -P | sha256sum)
  CARGO_TARGET_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/penstock/target-${checkout:0:8}"
fi
export CARGO_TARGET_DIR

penstock="$CARGO_TARGET_DIR/release/penstock"

# The pinned toolchain.
rust_wanted() { sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml; }

# What the lab needs and no package brings.
check_machine() {
  local major minor effective
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "this is $(uname -m), and Penstock runs on x86_64 and aarch64" "use such a machine" ;;
  esac
  IFS=.- read -r major minor _ < <(uname -r)
  minor=${minor%%[^0-9]*}
  if ((major < 5 || (major == 5 && minor < 11))); then
    fail "this is Linux $(uname -r), and the XDP programs need 5.11" \
      "use Debian 12, Ubuntu 22.04 or a later one"
  fi
  if ((EUID != 0)); then
    fail "root is needed: for network namespaces and XDP" "sudo $0, or better a root shell: sudo -i"
  fi
  effective=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
  # CAP_NET_ADMIN is bit 12 and CAP_SYS_ADMIN bit 21 (linux/capability.h).
  if (((0x$effective >> 12 & 0x$effective >> 21 & 1) == 0)); then
    fail "this root has no CAP_NET_ADMIN or no CAP_SYS_ADMIN, as in a container" \
      "use a virtual machine, or start the container with --privileged"
  fi
}

# Gigabytes that are still to come: packages and crates, the toolchain, the target directory.
check_disk() {
  local wanted=1 free_kb place=$CARGO_TARGET_DIR
  if ! compgen -G "${RUSTUP_HOME:-$HOME/.rustup}/toolchains/$(rust_wanted)-*" >/dev/null; then
    wanted=$((wanted + 3))
  fi
  if ! [[ -x $penstock ]]; then
    wanted=$((wanted + 3))
  fi
  while ! [[ -d $place ]]; do
    place=$(dirname "$place")
  done
  free_kb=$(df --output=avail -k "$place" | tail -1)
  if ((free_kb < wanted * 1000 * 1000)); then
    fail "about $wanted GB of disk are needed, and $place has $((free_kb / 1000 / 1000)) GB left" \
      "free some, or set CARGO_TARGET_DIR to a folder on a larger disk"
  fi
}

# Program (or file) that shows whether a package is there, and the package.
packages_wanted() {
  cat <<'LIST'
clang clang
cc build-essential
ip iproute2
ethtool ethtool
nft nftables
curl curl
iperf3 iperf3
tcpdump tcpdump
traceroute traceroute
ping iputils-ping
nsenter util-linux
git git
pkg-config pkg-config
/etc/ssl/certs/ca-certificates.crt ca-certificates
/usr/include/bpf/bpf_helpers.h libbpf-dev
/usr/include/linux/bpf.h linux-libc-dev
LIST
}

# Waits for another apt, such as that of the nightly upgrades, and asks nothing: iperf3 would like
# to know whether to run as a daemon.
apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

install_packages() {
  local what package missing=()
  while read -r what package; do
    case $what in
      /*) [[ -e $what ]] || missing+=("$package") ;;
      *) command -v "$what" >/dev/null || missing+=("$package") ;;
    esac
  done < <(packages_wanted)
  # bindgen loads libclang at build time. Its C++ sister, which clang brings, does not do.
  if ! compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null; then
    missing+=(libclang-dev)
  fi
  if ((${#missing[@]} == 0)); then
    return
  fi
  say "installing ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    fail "packages are missing, and there is no apt-get: ${missing[*]}" \
      "install what corresponds to them, or use Debian 12 or Ubuntu"
  fi
  # Where a repository cannot be reached, lists of before may still do.
  apt_get update || say "some package lists could not be updated"
  apt_get install -y --no-install-recommends "${missing[@]}" ||
    fail "packages could not be installed: ${missing[*]}" \
      "see that the network and the repositories of /etc/apt can be reached, and run this again"
}

install_rustup() {
  # The distribution's rustup would remove the distribution's cargo.
  if ! command -v cargo >/dev/null &&
    apt-cache policy rustup 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null; then
    say "installing rustup from the distribution"
    if apt_get install -y --no-install-recommends rustup; then
      return
    fi
  fi
  say "installing rustup from sh.rustup.rs"
  # A cargo of the distribution may stay: rustup's stands before it in PATH.
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
    RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y --no-modify-path --profile minimal \
      --default-toolchain none ||
    fail "rustup could not be installed" \
      "see that https://sh.rustup.rs can be reached, and run this again"
}

install_rust() {
  local wanted
  wanted=$(rust_wanted)
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  if ! command -v rustup >/dev/null; then
    if cargo --version 2>/dev/null | grep -F "cargo $wanted " >/dev/null; then
      return
    fi
    install_rustup
  fi
  if ! rustup toolchain list | grep -F "$wanted-" >/dev/null; then
    say "installing the pinned toolchain $wanted"
    rustup toolchain install "$wanted" --profile minimal --component clippy,rustfmt ||
      fail "the toolchain $wanted could not be installed" \
        "see that https://static.rust-lang.org can be reached, and run this again"
  fi
}

# Touches the network only when a crate is missing.
fetch_crates() {
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  cargo fetch --quiet --locked --target "$host" ||
    fail "the crates could not be fetched" \
      "see that https://index.crates.io can be reached, and run this again"
}

prepare() {
  say "looking for what is missing"
  check_machine
  check_disk
  install_packages
  install_rust
  fetch_crates
  say "target directory: $CARGO_TARGET_DIR"
}
