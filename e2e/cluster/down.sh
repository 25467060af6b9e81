#!/usr/bin/env bash
# Deletes the e2e cluster, and ends the docker engine that up.sh started, with all that it made on the host. A user's own engine is left alone.
#   --purge   also removes the cache (tools, node image, downloaded layers)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$CLUSTER_DIR/host-state.sh"
source "$CLUSTER_DIR/docker-engine.sh"

PURGE=
case ${1:-} in '') ;; --purge) PURGE=1 ;; *) die "usage: down.sh [--purge]" ;; esac

delete_cluster() {
  local containers volumes
  have docker && docker info >/dev/null 2>&1 || return 0
  mapfile -t containers < <(docker ps -a -q --filter "label=io.x-k8s.kind.cluster=$CLUSTER_NAME")
  if [ ${#containers[@]} -gt 0 ]; then
    say "deleting cluster $CLUSTER_NAME"
    docker rm -f -v "${containers[@]}" >/dev/null
  fi
  docker rm -f brainy-e2e-node-build >/dev/null 2>&1 || true
  if [ -e "$BRAINY_CACHE/made-kind-network" ]; then
    # Refused while another kind cluster uses it: then it stays.
    docker network rm kind >/dev/null 2>&1 || true
    rm -f "$BRAINY_CACHE/made-kind-network"
  fi
  if [ -n "$PURGE" ]; then
    mapfile -t volumes < <(docker images -q --filter 'reference=brainy-e2e/*' | sort -u)
    [ ${#volumes[@]} = 0 ] || docker rmi -f "${volumes[@]}" >/dev/null
  fi
}

lock cluster
delete_cluster
stop_engine
rm -f "$KUBECONFIG" "$KUBECONFIG.new" "$KUBECONFIG.lock" "$BRAINY_STATE/kind-config.yaml" "$BRAINY_STATE"/*.log
rmdir "$BRAINY_STATE" 2>/dev/null || true
if [ -n "$PURGE" ]; then
  say "removing the cache $BRAINY_CACHE"
  rm -rf --one-file-system "${BRAINY_CACHE:?}"
fi
say "cluster $CLUSTER_NAME is down"
