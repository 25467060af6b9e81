# shellcheck shell=bash
# The pod network on nodes of our own image, which has no kindnet: on each node the ptp plugin over the node's pod CIDR, masquerading
# for what leaves the pod network, and a route to each other node's pods. Sourced, after lib.sh. (No NetworkPolicy is enforced.)

POD_SUBNET=10.245.0.0/16

setup_node_network() {
  local node other routes jobs=() job
  local -A cidr address
  say "setting up the pod network"
  for node in "$@"; do
    cidr[$node]=$(wait_for_output 60 "pod CIDR of $node" kubectl get node "$node" -o 'jsonpath={.spec.podCIDR}')
    address[$node]=$(docker inspect -f '{{(index .NetworkSettings.Networks "kind").IPAddress}}' "$node")
  done
  for node in "$@"; do
    routes=
    for other in "$@"; do
      [ "$other" = "$node" ] || routes+="ip route replace ${cidr[$other]} via ${address[$other]}; "
    done
    cni_config "${cidr[$node]}" | docker exec -i "$node" bash -euc "
      rule='-s ${cidr[$node]} ! -d $POD_SUBNET -j MASQUERADE'
      iptables -w -t nat -C POSTROUTING \$rule 2>/dev/null || iptables -w -t nat -A POSTROUTING \$rule
      $routes
      cat >/etc/cni/net.d/10-brainy.conflist.new
      mv /etc/cni/net.d/10-brainy.conflist.new /etc/cni/net.d/10-brainy.conflist" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || die "could not set up the pod network of a node"; done
}

cni_config() {
  cat <<JSON
{"cniVersion": "0.4.0", "name": "brainy", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state", "ranges": [[{"subnet": "$1"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}
