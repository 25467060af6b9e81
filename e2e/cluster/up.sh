#!/usr/bin/env bash
# Brings up the e2e cluster: docker engine, tools, node image, a kind cluster of one control plane and two workers that is ready for use.
# Can be run again at any time: a healthy cluster is left alone, a broken one is deleted and made anew, an interrupted run is taken up.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLUSTER_DIR/host-state.sh"
source "$CLUSTER_DIR/docker-engine.sh"
source "$CLUSTER_DIR/node-image.sh"
source "$CLUSTER_DIR/node-network.sh"

NODES=("$CLUSTER_NAME-control-plane" "$CLUSTER_NAME-worker" "$CLUSTER_NAME-worker2")
# Written as the last step, on the node's tmpfs: a node that was restarted has lost its routes, and this file with them.
READY_MARK=/run/brainy-e2e-ready

wait_for() { # wait_for SECONDS WHAT COMMAND...
  local deadline=$((SECONDS + $1)) what=$2 said=
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { "$@" >&2 || true; die "gave up waiting for $what"; }
    [ -n "$said" ] || { say "waiting for $what"; said=1; }
    sleep 0.5
  done
}

wait_for_output() { # the same, for a command that must print something; prints it
  local deadline=$((SECONDS + $1)) what=$2 out
  shift 2
  until out=$("$@" 2>/dev/null) && [ -n "$out" ]; do
    [ "$SECONDS" -lt "$deadline" ] || die "gave up waiting for $what"
    sleep 0.3
  done
  echo "$out"
}

cluster_exists() { docker ps -a -q --filter "label=io.x-k8s.kind.cluster=$CLUSTER_NAME" | grep -q .; }

# Whether every node runs and was brought up to the end.
nodes_intact() {
  local node jobs=() job running
  running=$(docker ps --format '{{.Names}}' --filter "label=io.x-k8s.kind.cluster=$CLUSTER_NAME")
  for node in "${NODES[@]}"; do
    grep -qx "$node" <<<"$running" || return 1
  done
  for node in "${NODES[@]}"; do
    docker exec "$node" test -e "$READY_MARK" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || return 1; done
}

cluster_works() {
  local out
  # One request each: nodes ready, DNS and volumes served, the ServiceAccount without which no pod is admitted.
  out=$(kubectl --request-timeout=5s get nodes -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}') || return 1
  [ "$(grep -c '^True$' <<<"$out")" = ${#NODES[@]} ] || return 1
  kubectl --request-timeout=5s -n default get serviceaccount default >/dev/null || return 1
  out=$(kubectl --request-timeout=5s get deployments -A -o 'jsonpath={range .items[*]}{.metadata.name}={.status.availableReplicas}{"\n"}{end}') || return 1
  grep -qE '^coredns=[1-9]' <<<"$out" && grep -qE '^local-path-provisioner=[1-9]' <<<"$out"
}

write_kubeconfig() {
  mkdir -p "$BRAINY_STATE"
  kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$KUBECONFIG.new" >/dev/null 2>&1 || return 1
  mv "$KUBECONFIG.new" "$KUBECONFIG"
}

# A loaded machine can make a node miss its heartbeat; that is waited for rather than answered with a new cluster.
cluster_healthy() {
  local i
  nodes_intact 2>/dev/null || return 1
  for i in $(seq 1 30); do
    { cluster_works || { write_kubeconfig && cluster_works; }; } 2>/dev/null && return 0
    [ "$i" = 1 ] && say "the cluster is there but not ready; waiting up to a minute for it"
    sleep 2
  done
  return 1
}

kind_config() {
  cat <<YAML
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking:
  podSubnet: $POD_SUBNET
  disableDefaultCNI: $([ -n "$NODE_IMAGE_BUILT" ] && echo true || echo false)
kubeadmConfigPatches:
  - |
    kind: KubeletConfiguration
    failCgroupV1: false
YAML
}

run_kind_create() {
  quietly kind-create kind create cluster --name "$CLUSTER_NAME" --image "$NODE_IMAGE" \
    --config "$BRAINY_STATE/kind-config.yaml" --kubeconfig "$KUBECONFIG"
}

delete_cluster() {
  quietly kind-delete kind delete cluster --name "$CLUSTER_NAME" --kubeconfig "$KUBECONFIG"
}

create_cluster() {
  local began=$SECONDS node
  docker network inspect kind >/dev/null 2>&1 || : >"$BRAINY_CACHE/made-kind-network"
  say "creating cluster $CLUSTER_NAME: one control plane, two workers (about 30 s)"
  mkdir -p "$BRAINY_STATE"
  kind_config >"$BRAINY_STATE/kind-config.yaml"
  if ! run_kind_create; then
    # After an interrupted run docker may still have been making a node of that run.
    say "trying once more"
    delete_cluster
    run_kind_create || die "kind create cluster failed"
  fi
  if [ -n "$NODE_IMAGE_BUILT" ]; then setup_node_network "${NODES[@]}"; fi
  wait_for 180 "the nodes to be ready" kubectl wait --for=condition=Ready node --all --timeout=5s
  wait_for 120 "the default ServiceAccount" kubectl -n default get serviceaccount default
  wait_for 180 "CoreDNS" kubectl -n kube-system rollout status deployment/coredns --timeout=5s
  wait_for 180 "the volume provisioner" kubectl -n local-path-storage rollout status deployment/local-path-provisioner --timeout=5s
  wait_for 30 "the default StorageClass" kubectl get storageclass standard
  for node in "${NODES[@]}"; do docker exec "$node" touch "$READY_MARK"; done
  say "cluster $CLUSTER_NAME is up ($((SECONDS - began)) s)"
}

main() {
  lock cluster
  rm -rf --one-file-system "${BRAINY_CACHE:?}"/tmp/node-stage.* "$BRAINY_CACHE"/tmp/rootfs.*
  ensure_docker
  "$CLUSTER_DIR/tools.sh"
  if cluster_exists; then
    if cluster_healthy; then
      [ -e "$KUBECONFIG" ] || write_kubeconfig
      say "cluster $CLUSTER_NAME is up"
      return
    fi
    say "cluster $CLUSTER_NAME is broken or was never finished; making it anew"
    delete_cluster
  fi
  raise_limits
  ensure_node_image
  create_cluster
}

main "$@"
