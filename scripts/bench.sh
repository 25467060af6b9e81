#!/usr/bin/env bash
# bench.sh [--OPTION ...] [NAME...]: measures the storage stack beside what it is compared with, and prints one table; all of it, or
# the parts that are named (cached-get durable-set many-keys s3-requests s3-server hot-and-cold increments placement); and, unless parts were named, how long
# clients wait while nodes come and go. Needs no cluster.
# bench.sh coordination: only the latter.
# bench.sh operator: what 500 clusters on simulated nodes (BRAINY_BENCH_CLUSTERS) cost the operator, and how long a cluster is without
# one when its leader is killed.
# bench.sh cluster: sizes, memory and times to Ready, on Kubernetes.
# Nothing fails on a number.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

storage() {
  scripts/prerequisites.sh --without-cluster
  step "versitygw and daprd" e2e/cluster/tools.sh versitygw daprd
  # As everywhere else: another choice of packages would compile the dependencies with other features.
  step "the programs" cargo_static build --workspace --bins
  BRAINY_DAPRD=$BRAINY_CACHE/bin/daprd BRAINY_VERSITYGW=$BRAINY_CACHE/bin/versitygw \
    step "measuring" "$(static_folder)/brainy-bench" --programs "$(static_folder)" "$@"
}

# Dapr's actors, where they can be had: what is compared with them stands alone otherwise.
beside_it() {
  if step "daprd and placement" e2e/cluster/tools.sh daprd placement; then
    export BRAINY_DAPRD=$BRAINY_CACHE/bin/daprd BRAINY_PLACEMENT=$BRAINY_CACHE/bin/placement
  fi
}

coordination() {
  scripts/prerequisites.sh --without-cluster
  step "versitygw" s3_server
  beside_it
  step "measuring five processes" cargo_static test --workspace --test processes -- --ignored --nocapture --test-threads 1 figures
}

operator() {
  scripts/prerequisites.sh --without-cluster
  step "a control plane" e2e/cluster/tools.sh control-plane
  step "measuring" cargo_static test --workspace --test control_plane -- --ignored --nocapture --test-threads 1 figures
}

on_cluster() {
  scripts/prerequisites.sh
  step "a Kubernetes cluster" cluster_up
  refresh
  step "images" scripts/images.sh
  refresh
  step "the operator and an S3 server" scripts/install.sh
  step "measuring" "$(static_folder)/bench" --folder "$(static_folder)"
}

case "${1:-}" in
  cluster) on_cluster ;;
  coordination) coordination ;;
  operator) operator ;;
  "") storage; coordination ;;
  *) storage "$@" ;;
esac
