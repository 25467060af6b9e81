#!/bin/bash
# Runs inside the container that becomes the node image built from packages; node-image.sh starts it there.
# It does what the Dockerfile of kind's base image does, and the little in which Debian's packages differ from it.
set -euo pipefail

setup() {
  local unit name
  # Units that make no sense in a container.
  rm -f /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
    /lib/systemd/system/multi-user.target.wants/* \
    /etc/systemd/system/*.wants/* \
    /lib/systemd/system/local-fs.target.wants/* \
    /lib/systemd/system/sockets.target.wants/*udev* \
    /lib/systemd/system/sockets.target.wants/*initctl* \
    /lib/systemd/system/basic.target.wants/*
  mkdir -p /etc/systemd/journald.conf.d /etc/kubernetes/manifests
  printf '[Journal]\nReadKMsg=no\n' >/etc/systemd/journald.conf.d/kind.conf
  ln -sf /usr/lib/systemd/systemd /sbin/init
  : >/etc/machine-id

  # Debian's containerd is in /usr/bin.
  sed -i 's#/usr/local/bin/containerd#/usr/bin/containerd#' /etc/systemd/system/containerd.service
  # A host that withholds CAP_SYS_RESOURCE lets nobody lower an oom score; elsewhere this changes nothing that matters here.
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' /etc/containerd/config.toml
  ctr oci spec | jq '.hooks.createContainer[.hooks.createContainer | length] |= . + {"path": "/kind/bin/mount-product-files.sh"}
    | del(.process.rlimits)' >/etc/containerd/cri-base.json

  mkdir -p /opt/cni/bin /etc/cni/net.d
  cp /usr/lib/cni/{host-local,loopback,ptp,portmap} /opt/cni/bin/
  # Debian's own drop-ins would be read as networks.
  rm -f /etc/cni/net.d/*

  # What enforces NetworkPolicies has iptables's legacy tables for itself, beside kube-proxy's: it writes back a whole table, and its ACCEPT
  # would spare packets what kube-proxy refuses in the same one.
  mkdir -p /usr/local/lib/network-policies
  for name in iptables{,-save,-restore}; do ln -s /usr/sbin/xtables-legacy-multi "/usr/local/lib/network-policies/$name"; done

  for unit in kubelet containerd undo-mount-hacks; do systemctl enable "$unit.service"; done
  systemctl mask systemd-binfmt.service
}

# A tar of the programs that kube-proxy calls, with the libraries they need, on standard output.
kube_proxy_files() {
  local name list=(/usr/sbin/xtables-nft-multi /usr/sbin/nft /usr/sbin/conntrack) root
  root=$(mktemp -d)
  {
    printf '%s\n' "${list[@]}" /etc/protocols /etc/services
    find /usr/lib/*/xtables -name "*.so"
    ldd "${list[@]}" /usr/lib/*/xtables/*.so 2>/dev/null | grep -oE '/\S+\.so[.0-9]*' | grep -v xtables/
  } | sort -u | while read -r name; do
    [ -e "$name" ] || continue
    mkdir -p "$root$(dirname "$name")"
    cp -L "$name" "$root$name"
  done
  for name in ip{,6}tables{,-save,-restore}; do ln -s xtables-nft-multi "$root/usr/sbin/$name"; done
  tar -C "$root" -cf - .
  rm -rf "$root"
}

start_containerd() {
  nohup containerd >/dev/null 2>&1 &
  for _ in $(seq 1 100); do
    [ -S /run/containerd/containerd.sock ] && ctr info >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  echo "containerd did not start" >&2
  return 1
}

stop_containerd() {
  # A dead containerd stays as a zombie: the process 1 here reaps nothing.
  pkill -x containerd
  while pgrep -x -r R,S,D containerd >/dev/null; do sleep 0.1; done
  rm -rf /run/containerd /kind/node-image-setup.sh
}

case ${1:-setup} in
  setup) setup ;;
  kube-proxy-files) kube_proxy_files ;;
  start-containerd) start_containerd ;;
  stop-containerd) stop_containerd ;;
esac
