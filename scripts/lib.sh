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

# Seeds of whole clusters that `make test` tries: see docs/testing.md.
SIM_SEEDS=20000

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

# beside NAME COMMAND...: starts a long piece of work in the background, so that the waiting of the one fills with the
# computing of the other. It ends with the script.
declare -A BESIDE=()
beside() {
  local name=$1 log
  shift
  log=$(beside_log "$name")
  mkdir -p "$BRAINY_STATE"
  # In a process group of its own, so that all of it can be ended.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  BESIDE[$name]=$!
  set +m
  trap end_beside EXIT
  printf '== beside: %s (log: %s)\n' "$name" "$log"
}

beside_log() { echo "$BRAINY_STATE/${1// /-}.log"; }

end_beside() {
  local pid
  for pid in "${BESIDE[@]}"; do kill -- -"$pid" 2>/dev/null || true; done
}

# joined NAME: waits for it, and says meanwhile how far it is.
joined() {
  local name=$1 pid=${BESIDE[$1]} log last='' now beats=0
  log=$(beside_log "$name")
  while kill -0 "$pid" 2>/dev/null; do
    if [ $((beats++ % 15)) = 0 ]; then
      now=$(tail -n 1 "$log")
      [ "$now" = "$last" ] || printf '  %s\n' "$now"
      last=$now
    fi
    sleep 1
  done
  unset "BESIDE[$name]"
  wait "$pid" || { tail -n 60 "$log" >&2; return 1; }
}

host_target() { rustc -vV | sed -n 's/^host: //p'; }

# Static binaries: they run in an image that holds nothing else. The flags go with an explicit target, so that the
# artifacts of everyday builds stay as they are.
cargo_static() {
  local target variable flags command=$1
  shift
  target=$(host_target)
  variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS
  # Fewer pages that a start touches and that stay resident: relocations packed, and, where the linker is LLVM's (Rust's own
  # on this target), equal functions folded into one.
  flags="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
  if [ "$target" = x86_64-unknown-linux-gnu ]; then flags+=" -C link-arg=-Wl,--icf=all"; fi
  env "$variable=$flags" cargo "$command" --release --locked --target "$target" "$@"
}

# All that ships or tests; what only measures is compiled by those who measure.
build_programs() { cargo_static build --workspace --exclude brainy-bench --bins; }

static_folder() { echo "${CARGO_TARGET_DIR:-$ROOT/target}/$(host_target)/release"; }

# The S3 server of the tests: ours, unless the caller names one.
s3_server() {
  [ -n "${BRAINY_VERSITYGW:-}" ] || e2e/cluster/tools.sh versitygw
  export BRAINY_VERSITYGW=${BRAINY_VERSITYGW:-$BRAINY_CACHE/bin/versitygw}
}

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
