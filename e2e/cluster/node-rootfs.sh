# shellcheck shell=bash
# The root filesystem of the node image built from packages: a minimal Debian with systemd and containerd, kept as one tar in the cache.
# Sourced, after lib.sh. Needs root.

NODE_PACKAGES=(
  systemd systemd-sysv dbus                                # what runs the node
  containerd runc containernetworking-plugins libseccomp2  # what runs its containers
  conntrack iptables ipset nftables iproute2 ethtool       # kube-proxy, the network
  util-linux mount kmod procps jq pigz ca-certificates     # kubelet, kind's own scripts
  busybox-static                                           # the volume helper's shell
)

node_rootfs_tar() {
  local key
  key=$(printf '%s\n' "$NODE_DEBIAN_SUITE" "${NODE_PACKAGES[@]}" | sort | sha256sum | cut -c1-12)
  echo "$BRAINY_CACHE/node/rootfs-$NODE_DEBIAN_SUITE-$key.tar"
}

# The machine's own Debian mirror, from its apt sources.
debian_mirror() {
  local mirror
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 == "main" { print $3; exit }')
  echo "${mirror:-http://deb.debian.org/debian}"
}

build_node_rootfs() {
  local tar mirror dir proxy
  tar=$(node_rootfs_tar)
  [ -e "$tar" ] && return 0
  need debootstrap=debootstrap
  mirror=$(debian_mirror)
  proxy=$(apt-config shell p Acquire::http::Proxy | sed -n "s/^p='\(.*\)'$/\1/p")
  [ -z "$proxy" ] || export http_proxy=$proxy
  say "making the node's root filesystem: Debian $NODE_DEBIAN_SUITE from $mirror (about 2 min the first time)"
  dir=$(new_tmp rootfs)
  mkdir -p "$BRAINY_CACHE/node"
  # In a mount namespace of its own: what debootstrap mounts is gone with it, even when it is killed.
  quietly debootstrap unshare --mount --propagation private \
    debootstrap --variant=minbase --include="$(IFS=,; echo "${NODE_PACKAGES[*]}")" "$NODE_DEBIAN_SUITE" "$dir/root" "$mirror"
  rm -rf "$dir"/root/{usr/share/{doc,man,locale,info},var/cache/apt,var/lib/apt/lists,var/log}/*
  chmod 0755 "$dir/root"
  tar -C "$dir/root" --numeric-owner -cf "$tar.new" .
  mv "$tar.new" "$tar"
  rm -rf --one-file-system "$dir"
}
