#!/usr/bin/env bash
# load-images.sh IMAGE...: loads local docker images into all nodes of the e2e cluster; what a node already has is skipped.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -gt 0 ] || die "usage: load-images.sh IMAGE..."
mapfile -t NODES < <(kind get nodes --name "$CLUSTER_NAME" 2>/dev/null)
[ ${#NODES[@]} -gt 0 ] || die "cluster $CLUSTER_NAME is not up. Run e2e/cluster/up.sh"

# The name under which containerd knows a docker image.
full_name() {
  local image=$1 first
  [[ ${image##*/} == *:* ]] || image=$image:latest
  first=${image%%/*}
  case $image in
    */*) case $first in *.* | *:* | localhost) echo "$image" ;; *) echo "docker.io/$image" ;; esac ;;
    *) echo "docker.io/library/$image" ;;
  esac
}

# Each image of a node as "REF DIGEST". An image that kubelet can use is also listed as sha256:ID with the same digest.
declare -A LISTS
for node in "${NODES[@]}"; do
  LISTS[$node]=$(docker exec "$node" ctr --namespace k8s.io images list | awk 'NR > 1 { print $1, $3 }')
done

on_node() { # on_node NODE IMAGE ID
  local digest
  digest=$(awk -v ref="$(full_name "$2")" '$1 == ref { print $2 }' <<<"${LISTS[$1]}")
  [ -n "$digest" ] && { [ "$digest" = "$3" ] || grep -qxF "$3 $digest" <<<"${LISTS[$1]}"; }
}

missing=()
for image in "$@"; do
  id=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null) || die "there is no local docker image $image"
  for node in "${NODES[@]}"; do
    if ! on_node "$node" "$image" "$id"; then
      missing+=("$image")
      break
    fi
  done
done

if [ ${#missing[@]} -gt 0 ]; then
  say "loading ${missing[*]} into ${#NODES[@]} nodes"
  quietly load-images kind load docker-image --name "$CLUSTER_NAME" "${missing[@]}"
fi
