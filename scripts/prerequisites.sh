#!/usr/bin/env bash
# prerequisites.sh [node | s3-clients | --without-cluster]: names every missing prerequisite with the command that installs it. With
# `node`, only what the tests of the R2 backend need beyond the rest; with `s3-clients`, what those with S3 clients of others do.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RUST=1.95
GO=1.26
# miniflare asks for 22; what the tests use of it runs on 20 as well.
NODE=20
problems=()

missing() { problems+=("$1 is missing. Install it:  $2"); }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

check_rust() {
  local found
  command -v cargo >/dev/null || { missing "Rust" "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"; return; }
  found=$(rustc --version | sed -nE 's/^rustc ([0-9.]+).*/\1/p')
  at_least "$RUST" "$found" || problems+=("Rust $found is too old, $RUST is needed. Update it:  rustup update stable")
  cargo fmt --version >/dev/null 2>&1 || missing "rustfmt" "rustup component add rustfmt"
  cargo clippy --version >/dev/null 2>&1 || missing "clippy" "rustup component add clippy"
}

check_go() {
  local found
  command -v go >/dev/null || { missing "Go" "see https://go.dev/doc/install (version $GO or later)"; return; }
  found=$(go env GOVERSION | sed 's/^go//')
  # An older go fetches the toolchain that a module asks for, unless it is told not to.
  at_least "$GO" "$found" || [ "$(go env GOTOOLCHAIN)" != local ] || problems+=("Go $found is too old, $GO is needed: see https://go.dev/doc/install")
}

check_programs() {
  command -v cc >/dev/null || missing "a C compiler" "sudo apt-get install gcc libc6-dev"
  command -v git >/dev/null || missing "git" "sudo apt-get install git"
}

# The engine itself is started by e2e/cluster/up.sh where there is none.
check_docker() {
  [ -z "${E2E_KUBECONFIG:-}" ] || return 0
  docker info >/dev/null 2>&1 && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then return 0; fi
  problems+=("Docker does not answer ('docker info' fails). Start it, or install it:  https://docs.docker.com/engine/install/  (or run as root on Debian: an engine is then started for you)")
}

check_node() {
  local found how="https://nodejs.org/en/download (version $NODE or later)"
  command -v node >/dev/null || { missing "Node" "$how"; return; }
  found=$(node --version | sed 's/^v//')
  at_least "$NODE" "$found" || problems+=("Node $found is too old, $NODE is needed: see $how")
  command -v npm >/dev/null || missing "npm" "it comes with Node: $how"
}

check_python() {
  command -v python3 >/dev/null || { missing "Python" "sudo apt-get install python3 python3-venv"; return; }
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing "Python's venv" "sudo apt-get install python3-venv"
}

if [ "${1:-}" = node ]; then
  check_node
elif [ "${1:-}" = s3-clients ]; then
  check_node
  check_python
else
  check_rust
  check_go
  check_programs
  if [ "${1:-}" != --without-cluster ]; then check_docker; fi
fi
if [ ${#problems[@]} -gt 0 ]; then
  printf 'ERROR: %s\n' "${problems[@]}" >&2
  exit 1
fi
