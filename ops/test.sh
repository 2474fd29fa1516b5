#!/usr/bin/env bash
# The second command: every test.
set -euo pipefail

print_help() {
  cat <<'HELP'
Installs what is missing, builds Penstock and runs every test but the lab's row KILLS, which takes
minutes. Needs no standard input, cleans up, and ends with `N passed, N failed`. Can be run again at any time.

  ops/test.sh                run all, also with the deliberate faults
  ops/test.sh soak MINUTES   run new seeds of the simulation, and nothing else, for so long; the
                             first seed is that of the clock, and a seed that fails is named with
                             the command that repeats it
  ops/test.sh --help         this text

Needs what ops/lab.sh needs. A lab that is up is taken down, since the tests build their own under
the same names; `soak` leaves it alone.
HELP
}

# $1 is what is wrong with the arguments.
refuse() {
  printf 'error: %s\n  fix: %s\n' "$1" "run ops/test.sh, ops/test.sh soak 10, or ops/test.sh --help" >&2
  exit 2
}

soak_minutes=
case ${1-} in
  '') (($# == 0)) || refuse "an empty argument is given" ;;
  -h | --help)
    print_help
    exit 0
    ;;
  soak)
    (($# == 2)) || refuse "soak takes one argument, how many minutes to run, and $(($# - 1)) are given"
    [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] ||
      refuse "\`$2\` is no number of minutes: soak takes a whole number from 1 to 99999"
    soak_minutes=$2
    ;;
  *) refuse "\`$1\` is not known: there is \`soak\`, and without an argument all tests are run" ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ops/prepare.sh
. ops/prepare.sh
exec </dev/null

passed=0
failed=0
skipped=()
failures=()
log=$(mktemp)
lab_begun=
lab_ended=

# shellcheck disable=SC2317 # called by the trap
clean_up() {
  # Takes down whatever the tests' labs left; touches nothing without the lab's prefix.
  if [[ $lab_begun && -x $penstock ]]; then
    "$penstock" lab down >/dev/null 2>&1 || true
  fi
  rm -f "$log"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# Adds one result; $1 is what was run, $2 its exit status.
count() {
  if (($2 == 0)); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$1")
  fi
}

# Runs a step that passes or fails as a whole.
step() {
  local name=$1 status=0
  shift
  say "$name: $*"
  "$@" || status=$?
  count "$name" "$status"
}

finish() {
  say "summary"
  if [[ $lab_ended ]]; then
    echo "$lab_ended"
  fi
  if ((${#skipped[@]} > 0)); then
    printf 'skipped: %s\n' "${skipped[@]}"
  fi
  if ((${#failures[@]} > 0)); then
    printf 'FAILED: %s\n' "${failures[@]}"
  fi
  echo "$passed passed, $failed failed"
  if ((failed > 0 || passed == 0)); then
    exit 1
  fi
  exit 0
}

# From here on the lab's names are the tests'. A lab that somebody kept gives way.
begin_labs() {
  if [[ -d /run/penstock-lab ]]; then
    lab_ended="the lab that was up was taken down; put it up again with: $penstock lab up"
    say "a lab is up: the tests take it down, since they build their own under the same names"
  fi
  lab_begun=yes
}

# Sums the lines `test result: ok. 12 passed; 0 failed; ...` of cargo test.
cargo_tests() {
  local status=0 good bad
  say "tests: cargo test --release --workspace --locked --no-fail-fast"
  cargo test --release --workspace --locked --no-fail-fast 2>&1 | tee "$log" || status=$?
  good=$(awk '/^test result: / { n += $4 } END { print n + 0 }' "$log")
  bad=$(awk '/^test result: / { n += $6 } END { print n + 0 }' "$log")
  passed=$((passed + good))
  failed=$((failed + bad))
  if ((bad > 0)); then
    failures+=("$bad tests, named above")
  elif ((status != 0)); then
    count "cargo test" "$status"
  fi
}

# Adds the last line of a lab run, `N passed, N failed`.
lab_run() {
  local status=0 good bad
  say "lab: penstock lab run"
  "$penstock" lab run 2>&1 | tee "$log" || status=$?
  read -r good bad < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -1) || true
  passed=$((passed + ${good:-0}))
  failed=$((failed + ${bad:-0}))
  if ((${bad:-0} > 0)); then
    failures+=("$bad checks of the lab, named above")
  elif ((status != 0)); then
    count "lab run" "$status"
  fi
}

dependencies() {
  if ! command -v cargo-deny >/dev/null; then
    say "installing cargo-deny"
    if ! cargo install --locked --quiet cargo-deny; then
      skipped+=("cargo deny: cargo-deny could not be installed")
      return
    fi
  fi
  # It looks at the crates of all platforms, and not only at those that were built.
  cargo fetch --quiet --locked || say "some crates of other platforms could not be fetched"
  step "dependencies" cargo deny --offline check bans licenses sources
  if curl -sSf -m 10 -o /dev/null https://github.com/rustsec/advisory-db; then
    step "advisories" cargo deny check advisories
  else
    skipped+=("advisories: https://github.com/rustsec/advisory-db is not reachable")
  fi
}

# Says in how many seeds the simulation finds each fault that is put in on purpose.
deliberate() {
  step "deliberate faults" cargo test --release -p penstock-integration \
    --features deliberate-faults --locked --test deliberate -- --nocapture
}

# Runs new seeds of the simulation until the time is over.
soak() {
  local seed end good bad batch=50 status
  local -a simulation=(cargo test --release -p penstock-integration --locked --quiet --test simulation)
  say "soak: building the simulation"
  "${simulation[@]}" --no-run || count "build" 1
  ((failed == 0)) || finish
  seed=$(date +%s)000
  end=$((SECONDS + soak_minutes * 60))
  say "soak: $soak_minutes minutes from seed $seed on"
  while ((SECONDS < end)); do
    status=0
    PENSTOCK_SEED=$seed PENSTOCK_SEEDS=$batch \
      "${simulation[@]}" many_seeds -- --nocapture >"$log" 2>&1 || status=$?
    read -r good bad < <(sed -n 's/^seeds: \([0-9]*\) hold, \([0-9]*\) fail$/\1 \2/p' "$log") || true
    passed=$((passed + ${good:-0}))
    failed=$((failed + ${bad:-0}))
    if ((${bad:-0} > 0)); then
      sed -n '/^seed [0-9]/,/^repeat: /p' "$log"
      mapfile -t -O "${#failures[@]}" failures < <(sed -n 's/^repeat: //p' "$log")
    elif ((status != 0)); then
      cat "$log"
      count "seeds from $seed on: PENSTOCK_SEED=$seed PENSTOCK_SEEDS=$batch ${simulation[*]}" "$status"
    fi
    seed=$((seed + batch))
    echo "$((end > SECONDS ? end - SECONDS : 0)) s left: $passed seeds passed, $failed failed"
  done
  finish
}

prepare
if [[ $soak_minutes ]]; then
  soak
fi
step "format" cargo fmt --all --check
step "build" cargo build --release --locked
if ((failed > 0)) && ! [[ -x $penstock ]]; then
  finish
fi
step "lints" cargo clippy --release --workspace --all-targets --locked -- -D warnings
dependencies
begin_labs
cargo_tests
deliberate
lab_run
finish
