# shellcheck shell=bash
# The pod network on nodes of our own image, which has no kindnet: on each node the ptp plugin over the node's pod CIDR, masquerading
# for what leaves the pod network, a route to each other node's pods, and what enforces NetworkPolicies. Sourced, after lib.sh.

POD_SUBNET=10.245.0.0/16

# setup_node_network CONTROL-PLANE OTHER-NODE...
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
  enforce_network_policies "$@"
}

# With the rights of a user that may read what policies are about, and nothing else.
enforce_network_policies() {
  local node kubeconfig user=brainy-network-policies
  kubectl create clusterrole $user --verb=get,list,watch --resource=pods,namespaces,nodes,networkpolicies.networking.k8s.io >/dev/null
  kubectl create clusterrolebinding $user --clusterrole=$user --user=$user >/dev/null
  kubeconfig=$(docker exec "$1" kubeadm kubeconfig user --config /kind/kubeadm.conf --client-name $user 2>/dev/null) ||
    die "no kubeconfig could be made for what enforces NetworkPolicies"
  for node in "$@"; do
    docker exec -i "$node" bash -euc "
      umask 077
      cat >/etc/kubernetes/network-policies.conf
      iptables-legacy -w -t filter -S >/dev/null
      systemctl start network-policies" <<<"$kubeconfig" ||
      die "NetworkPolicies can't be enforced on $node: its kernel must have iptables's legacy tables (modprobe iptable_filter)"
  done
}

cni_config() {
  cat <<JSON
{"cniVersion": "0.4.0", "name": "brainy", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state", "ranges": [[{"subnet": "$1"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}
