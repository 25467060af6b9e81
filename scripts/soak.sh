#!/usr/bin/env bash
# soak.sh [--without-cluster] [MINUTES]: storage and coordination under long trouble. Once: 200 times kill -9 for each backend with a
# disk, each system call that changes files failed in turn, 30 rounds of each trouble with five processes, more states of the
# model of leases, the operator in trouble at each of its writes and through 336 specs, and on Kubernetes five minutes without an
# operator, one without an API server and two without a worker, zones, and a worker that is gone for good. Then
# random operations against the model and the checker of linearizability, and whole simulated clusters, with one seed after the
# other, until the time is over (30 minutes, all together, unless said otherwise).
# BRAINY_TEST_SEED=… scripts/soak.sh: begins with the seed of a round that failed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ON_KUBERNETES=1
if [ "${1:-}" = --without-cluster ]; then
  ON_KUBERNETES=
  shift
fi
MINUTES=${1:-30}
KILLS=200
# Of each trouble with five processes.
ROUNDS=30
# Of each of fourteen walks over specs.
STEPS=24
# Runs of the model for each that `make test` makes.
TIMES=5

tests() { cargo_static test --workspace "$@"; }

# The operator, the API server and a worker, each for long enough that Kubernetes itself notices.
outages() {
  BRAINY_TEST_OPERATOR_AWAY=300 BRAINY_TEST_API_SERVER_AWAY=60 BRAINY_TEST_WORKER_AWAY=120 tests --test outages -- --nocapture
}

if [ -z "$ON_KUBERNETES" ]; then
  scripts/prerequisites.sh --without-cluster
else
  scripts/prerequisites.sh
  step "a Kubernetes cluster" cluster_up
  refresh
  step "images of operator and sidecar" scripts/images.sh
  refresh
  step "the operator and an S3 server" scripts/install.sh
fi
step "versitygw" s3_server
step "a control plane without machines" e2e/cluster/tools.sh control-plane
step "the tests" tests --no-run --lib --test embedded --test filesystem --test faults --test linearizability --test model --test copies --test processes --test control_plane
ends=$((SECONDS + MINUTES * 60))

export BRAINY_TEST_KILLS=$KILLS BRAINY_TEST_FAULTS=all BRAINY_TEST_TIMES=$TIMES
step "kill -9, $KILLS times for each backend" tests --test embedded --test filesystem -- every_acknowledged_write_survives_kill_9
step "each system call fails in turn" tests --test faults
# They wait far more than they compute.
BRAINY_TEST_ROUNDS=$ROUNDS step "five processes, $ROUNDS rounds of each trouble" tests --test processes -- --nocapture --test-threads 4
step "more states of the model" tests --lib -- --ignored model::tests::more_states_are_safe
BRAINY_TEST_CRASHES=all BRAINY_TEST_STEPS=$STEPS step "every crash point of the operator, and a long walk" \
  tests --test control_plane -- --nocapture --test-threads 1
if [ -n "$ON_KUBERNETES" ]; then
  step "no operator, no API server, no worker" outages
  # What `make test` leaves out.
  step "zones, and a worker that is gone for good" tests --test zones --test dead_machine
fi
rounds=0
seed=${BRAINY_TEST_SEED:-$(date +%s)}
while :; do
  export BRAINY_TEST_SEED=$seed PROPTEST_RNG_SEED=$seed BRAINY_SIM_FIRST=$((seed * SIM_SEEDS)) BRAINY_SIM_SEEDS=$SIM_SEEDS
  step "round $((++rounds)): seed $seed, $(((ends - SECONDS) / 60)) minutes left" tests --test linearizability --test model --test copies
  step "round $rounds: properties of single decisions" tests --lib -- placement:: session:: shard_map:: locks:: encoding:: notes::
  step "round $rounds: $SIM_SEEDS simulated clusters from seed $BRAINY_SIM_FIRST" tests --lib -- simulation::every_shard
  [ "$SECONDS" -lt "$ends" ] || break
  seed=$((seed + 1))
done
printf '\nNothing was lost: %d kills for each backend, each system call failed, %d rounds of random operations and simulated clusters (the last seed was %d)\n' \
  "$KILLS" "$rounds" "$seed"
