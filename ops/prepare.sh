#!/usr/bin/env bash
# Sourced by lab.sh and test.sh: gets a machine ready to build and run Penstock. Everything here
# looks first and does only what is missing.

say() { printf '==> %s\n' "$*"; }
fail() {
  printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2
  exit 1
}

# Outside of the checkout, so that a clean checkout keeps what was built.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock/target}"

# Program (or file) that shows whether a package is there, and the package.
packages_wanted() {
  cat <<'LIST'
clang clang
llvm-strip llvm
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

install_packages() {
  local what package missing=()
  while read -r what package; do
    case $what in
      /*) [[ -e $what ]] || missing+=("$package") ;;
      *) command -v "$what" >/dev/null || missing+=("$package") ;;
    esac
  done < <(packages_wanted)
  # bindgen loads libclang at build time.
  if ! compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null; then
    missing+=(libclang-dev)
  fi
  if ((${#missing[@]} == 0)); then
    return
  fi
  say "installing ${missing[*]}"
  if ((EUID != 0)); then
    fail "packages are missing: ${missing[*]}" "run this as root, or: apt-get install ${missing[*]}"
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  # iperf3 asks whether to run as a daemon when it may.
  apt-get install -q -y --no-install-recommends "${missing[@]}"
}

install_rust() {
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  export PATH
  if ! command -v rustup >/dev/null && ! command -v cargo >/dev/null; then
    if ((EUID == 0)) && apt-cache policy rustup 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null; then
      say "installing rustup from the distribution"
      DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends rustup
    else
      say "installing rustup from sh.rustup.rs"
      curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --no-modify-path --profile minimal --default-toolchain none
    fi
  fi
  local wanted
  wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  if command -v rustup >/dev/null; then
    if ! rustup toolchain list | grep "^$wanted" >/dev/null; then
      say "installing the pinned toolchain $wanted"
      rustup toolchain install "$wanted" --profile minimal --component clippy,rustfmt
    fi
  elif ! cargo --version | grep -F "$wanted" >/dev/null; then
    fail "this is $(cargo --version), and Penstock is built with $wanted" "install rustup: https://rustup.rs"
  fi
}

prepare() {
  if ((EUID != 0)); then
    fail "root is needed: for network namespaces and XDP" "sudo ${0}"
  fi
  say "looking for what is missing"
  install_packages
  install_rust
  say "target directory: $CARGO_TARGET_DIR"
}
