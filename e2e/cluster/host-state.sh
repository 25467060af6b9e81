# shellcheck shell=bash
# What an engine of our own changes on the host besides its folders: sysctls, iptables, bridges, cgroups. Remembered before, put back after.
# Sourced, after lib.sh.

HOST_STATE=$BRAINY_DOCKER_RUN/host-before

save_host_state() {
  local dir
  [ -d "$HOST_STATE" ] && return 0
  rm -rf "$HOST_STATE.new"
  mkdir -p "$HOST_STATE.new"
  cat /proc/sys/net/ipv4/ip_forward >"$HOST_STATE.new/ip_forward"
  iptables-save >"$HOST_STATE.new/iptables" 2>/dev/null
  ip -o link show type bridge 2>/dev/null | awk -F': ' '{ print $2 }' >"$HOST_STATE.new/bridges"
  # Folders that every dockerd makes, wherever its own are.
  for dir in /run/docker /run/containerd; do
    [ -e "$dir" ] || echo "$dir"
  done >"$HOST_STATE.new/folders"
  mv "$HOST_STATE.new" "$HOST_STATE"
}

restore_host_state() {
  local name chain policy dir
  [ -d "$HOST_STATE" ] || return 0
  # Bridges that came with our engine: docker0 and those of its networks.
  while read -r name; do
    case $name in docker0 | br-[0-9a-f]*) grep -qx "$name" "$HOST_STATE/bridges" || ip link delete "$name" 2>/dev/null || true ;; esac
  done < <(ip -o link show type bridge | awk -F': ' '{ print $2 }')
  # Rules and chains that came with our engine name docker or one of its bridges, or masquerade a published port for its own container.
  if ! grep -q DOCKER "$HOST_STATE/iptables"; then
    iptables-save 2>/dev/null | grep -vE 'DOCKER|docker0|br-[0-9a-f]{12}|-s ([0-9.]+/32) -d \1 .*-j MASQUERADE' | iptables-restore || say "could not remove docker's iptables rules"
    while read -r chain policy; do
      iptables -P "$chain" "$policy" || true
    done < <(sed -n '/^\*filter/,/^COMMIT/ s/^:\(INPUT\|FORWARD\|OUTPUT\) \([A-Z]*\).*/\1 \2/p' "$HOST_STATE/iptables" | grep . || printf 'FORWARD ACCEPT\n')
  fi
  while read -r dir; do
    [ ! -d "$dir" ] || find "$dir" -depth -type d -empty -delete
  done < <(cat "$HOST_STATE/folders" 2>/dev/null)
  cat "$HOST_STATE/ip_forward" >/proc/sys/net/ipv4/ip_forward
  for name in "$HOST_STATE"/sysctl.*; do
    [ ! -e "$name" ] || sysctl -q -w "${name#"$HOST_STATE"/sysctl.}=$(cat "$name")" || true
  done
  for dir in /sys/fs/cgroup"$ENGINE_CGROUP" /sys/fs/cgroup/*"$ENGINE_CGROUP"; do
    [ ! -d "$dir" ] || find "$dir" -depth -type d -exec rmdir {} \; 2>/dev/null || true
  done
  rm -rf "$HOST_STATE"
}

# at_least KEY VALUE: raises a sysctl that several nodes on one machine soon exhaust.
at_least() {
  local now
  now=$(cat "/proc/sys/${1//.//}" 2>/dev/null) || return 0
  [ "$now" -lt "$2" ] || return 0
  if is_root; then
    say "raising $1 from $now to $2 (three nodes need more than the default)"
    [ -d "$HOST_STATE" ] && [ ! -e "$HOST_STATE/sysctl.$1" ] && echo "$now" >"$HOST_STATE/sysctl.$1"
    sysctl -q -w "$1=$2" || say "could not raise $1"
  elif [ "$(uname)" = Linux ]; then
    say "$1 is $now; if nodes fail to start:  sudo sysctl -w $1=$2"
  fi
}

raise_limits() {
  at_least fs.inotify.max_user_instances 1024
  at_least fs.inotify.max_user_watches 524288
}
