# shellcheck shell=bash
# Shared by the scripts in this folder: where things are, and steps that say what they do and how long they took. Sourced.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# shellcheck source=../e2e/cluster/env.sh
source e2e/cluster/env.sh
# A cluster that the user has: the tests run there, and nothing is brought up.
if [ -n "${E2E_KUBECONFIG:-}" ]; then export KUBECONFIG=$E2E_KUBECONFIG; fi
export CARGO_TERM_PROGRESS_WHEN=${CARGO_TERM_PROGRESS_WHEN:-never}

die() { printf 'ERROR: %s\n' "$*" >&2; exit 1; }

# step WHAT COMMAND...: says what it does, and how long it took or that it failed.
step() {
  local what=$1 began=$SECONDS
  shift
  printf '\n== %s\n' "$what"
  if "$@"; then
    printf '== %s: done in %d s\n' "$what" $((SECONDS - began))
  else
    printf '== %s: FAILED after %d s\n' "$what" $((SECONDS - began)) >&2
    return 1
  fi
}

host_target() { rustc -vV | sed -n 's/^host: //p'; }

# Static binaries: they run in an image that holds nothing else. The flags go with an explicit target, so that the
# artifacts of everyday builds stay as they are.
cargo_static() {
  local target variable command=$1
  shift
  target=$(host_target)
  variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS
  env "$variable=-C target-feature=+crt-static" cargo "$command" --release --locked --target "$target" "$@"
}

static_folder() { echo "${CARGO_TARGET_DIR:-$ROOT/target}/$(host_target)/release"; }

# The cluster: ours, unless the user named one.
cluster_up() { [ -n "${E2E_KUBECONFIG:-}" ] || "$ROOT/e2e/cluster/up.sh"; }

# What became known while the scripts ran: the docker engine that up.sh may have started, the images.
refresh() {
  source "$ROOT/e2e/cluster/env.sh"
  if [ -n "${E2E_KUBECONFIG:-}" ]; then export KUBECONFIG=$E2E_KUBECONFIG; fi
  if [ -e "$BRAINY_STATE/images.env" ]; then
    set -a
    source "$BRAINY_STATE/images.env"
    set +a
  fi
}
