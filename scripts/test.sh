#!/usr/bin/env bash
# test.sh [STEP...]: runs the named steps, or all of them in this order. It ends at the first that fails.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

CARGO_DENY=0.20.2
# End-to-end tests that `make e2e` and `make soak` run, and `make test` does not.
LONGEST=(dead_machine zones)
# Generated cases are the same each time: a run that fails fails again. `make soak` draws others.
export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1}

fmt() { cargo fmt --all --check; }

clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

# They are run by `make mutants`; here it is only seen that none has gone stale.
mutants() { scripts/mutants.sh --check; }

# Unit and property tests; what needs an S3 server is in the next step. All tests are built like the images, so that the
# dependencies are compiled once. No program has tests of its own: what can be wrong is in the libraries.
unit() { cargo_static test --workspace --lib; }

# Whole clusters in one process, seed by seed. The unit tests try a few; here are all that must pass.
simulation() {
  BRAINY_SIM_SEEDS=$SIM_SEEDS cargo_static test --workspace --lib -- --nocapture simulation::every_shard
}

# S3 clients of others, where this machine can have them: where it says that they are left out, their tests are.
s3_clients() {
  if scripts/prerequisites.sh s3-clients 2>/dev/null; then
    BRAINY_S3_CLIENTS=$(scripts/s3-clients.sh)
    e2e/cluster/tools.sh rclone
    export BRAINY_S3_CLIENTS BRAINY_RCLONE=$BRAINY_CACHE/bin/rclone
  else
    echo "LEFT OUT: S3 clients of others (boto3, pyarrow, the aws command, the AWS SDK for JavaScript, rclone). To run these tests too:"
    scripts/prerequisites.sh s3-clients 2>&1 || true
  fi
}

# Each crate's tests/ folder, with a real S3 server and Cloudflare's runtime for those that need one. The runtime comes with
# Node, which nothing else needs: without it, its tests are left out.
integration() {
  local path name tests=() skip=()
  if scripts/prerequisites.sh node 2>/dev/null; then
    BRAINY_MINIFLARE=$(scripts/miniflare.sh)
    export BRAINY_MINIFLARE
  else
    echo "LEFT OUT: R2 on Cloudflare's runtime. To run these tests too:"
    scripts/prerequisites.sh node 2>&1 || true
    skip=(-- --skip r2_is_an_object_store)
  fi
  s3_clients
  for path in {crds,operator,sidecar,sidecar/*}/tests/*; do
    name=$(basename "$path" .rs)
    # Beside the tests lie the cases that they have found.
    [ -f "$path/main.rs" ] || [[ "$path" = *.rs && -e "$path" ]] || continue
    # They have a step of their own.
    [ "$name" != control_plane ] || continue
    [ "$name" != r2 ] || [ -n "${BRAINY_MINIFLARE:-}" ] || continue
    # A name chooses the tests of all crates that have it, and those there need a cluster.
    [ ! -e "e2e/tests/$name.rs" ] && [ ! -e "e2e/tests/$name" ] || die "$path has the name of a test of e2e/tests: give it another"
    [ "$name" != s3_clients ] || [ -n "${BRAINY_S3_CLIENTS:-}" ] || continue
    tests+=(--test "$name")
  done
  # The queries of alerts and dashboard are read as helm renders them.
  e2e/cluster/tools.sh helm
  s3_server
  cargo_static test --workspace "${tests[@]}" "${skip[@]}"
}

# The operator's program against a real API server without machines: some of the crash points and steps that `make soak` tries all of.
controlplane() {
  e2e/cluster/tools.sh control-plane
  # Each test has a control plane of its own.
  cargo_static test --workspace --test control_plane -- --nocapture --test-threads 1
}

# The manifest is what the types say; the examples hold under its rules.
crds() {
  build_programs
  "$(static_folder)/crdgen" --check
  "$(static_folder)/brainy-validate" crds/examples/*.yaml examples/*/cluster.yaml
}

chart() {
  e2e/cluster/tools.sh helm
  source e2e/cluster/versions.sh
  helm lint --strict charts/brainy-operator
  helm template brainy-operator charts/brainy-operator --namespace brainy-system --kube-version "$KUBERNETES_VERSION" >/dev/null
  # What is cert-manager's may be touched only where that is asked for, with either way of granting.
  local grants count
  for grants in "certManager.enabled=false 0" "certManager.enabled=true 1" \
    "certManager.enabled=true,rbac.scope=Namespaces,watchNamespaces={a,b} 2"; do
    count=$(helm template brainy-operator charts/brainy-operator --kube-version "$KUBERNETES_VERSION" --set "${grants% *}" |
      grep -c 'apiGroups: \[cert-manager.io\]' || true)
    if [ "$count" != "${grants##* }" ]; then
      echo "--set ${grants% *}: $count grants of what is cert-manager's, not ${grants##* }"
      return 1
    fi
  done
  # Every setting is described: an unknown one is refused.
  if helm template brainy-operator charts/brainy-operator --kube-version "$KUBERNETES_VERSION" --set noSuchSetting=1 >/dev/null 2>&1; then
    echo "the chart takes a setting that it does not know"
    return 1
  fi
}

deny() {
  local folder=$BRAINY_CACHE/cargo-deny-$CARGO_DENY
  if [ ! -x "$folder/bin/cargo-deny" ]; then
    echo "building cargo-deny $CARGO_DENY, once (about two minutes)"
    # Unoptimised: it runs for a second, and compiles in a third of the time.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$BRAINY_CACHE/tmp/cargo-deny cargo install --quiet --locked --debug --root "$folder" "cargo-deny@$CARGO_DENY"
    rm -rf "$BRAINY_CACHE/tmp/cargo-deny"
  fi
  # Also of crates that only other systems compile.
  cargo fetch --quiet --locked
  "$folder/bin/cargo-deny" --offline --locked check licenses bans sources
}

# e2e_tests NAME...: installs all that they need, and runs them.
e2e_tests() {
  refresh
  scripts/images.sh
  refresh
  scripts/install.sh
  s3_clients
  # Tests wait far more than they compute: several at once. The binaries run one after the other: what one does to the operator
  # or to machines never meets another's tests.
  local name tests=()
  for name in "$@"; do tests+=(--test "$name"); done
  # The whole workspace is named each time: another choice of packages would compile the dependencies with other features.
  cargo_static test --workspace "${tests[@]}" -- --test-threads 4
}

e2e_names() { basename -a -s .rs e2e/tests/*; }

e2e() { e2e_tests $(e2e_names); }

# Without those that wait longest, for what seldom changes.
e2e_slice() { e2e_tests $(e2e_names | grep -vxF "$(printf '%s\n' "${LONGEST[@]}")"); }

declare -A WHAT=(
  [fmt]="format" [mutants]="mutants apply" [clippy]="lints" [unit]="unit tests" [simulation]="simulated clusters" [integration]="integration tests" [controlplane]="the operator against a real API server" [crds]="manifests"
  [chart]="Helm chart" [deny]="licences, sources, bans" [e2e]="end-to-end tests on Kubernetes" [e2e_slice]="end-to-end tests on Kubernetes, but for the longest"
)
CLUSTER="a Kubernetes cluster"
ALL=(fmt mutants deny clippy unit simulation integration controlplane crds chart e2e_slice)

main() {
  local began=$SECONDS name steps=("$@")
  [ ${#steps[@]} -gt 0 ] || steps=("${ALL[@]}")
  scripts/prerequisites.sh
  for name in "${steps[@]}"; do
    [ -n "${WHAT[$name]:-}" ] || die "no such step: $name (there are: ${ALL[*]})"
  done
  if [[ " ${steps[*]} " = *" e2e"* ]]; then beside "$CLUSTER" cluster_up; fi
  for name in "${steps[@]}"; do
    if [[ "$name" = e2e* ]]; then step "$CLUSTER" joined "$CLUSTER"; fi
    step "${WHAT[$name]}" run_strictly "$name" || die "${steps[*]}: $name failed"
  done
  printf '\nAll passed in %d s: %s\n' $((SECONDS - began)) "${steps[*]}"
}

# In a shell of its own: a function called in a condition would go on after a command that fails.
run_strictly() { "$BASH" "$ROOT/scripts/test.sh" --inner "$1"; }

if [ "${1:-}" = --inner ]; then "$2"; else main "$@"; fi
