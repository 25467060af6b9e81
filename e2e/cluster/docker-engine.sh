# shellcheck shell=bash
# The docker engine: the user's where `docker info` works, else, as root on Debian, one of our own, started by hand. Sourced, after lib.sh.
# Ours is one per machine, under $BRAINY_DOCKER_RUN (set by env.sh); images and layers are kept in the cache.

ENGINE_PID_FILE=$BRAINY_DOCKER_RUN/docker.pid
ENGINE_CONFIG=$BRAINY_DOCKER_RUN/daemon.json
ENGINE_SOCKET=$BRAINY_DOCKER_RUN/docker.sock
ENGINE_LOG=$BRAINY_CACHE/logs/dockerd.log
ENGINE_CGROUP=/brainy-e2e-docker

# The pid of our dockerd, when it runs: the pid file's process must be a dockerd with our configuration.
engine_pid() {
  local pid
  pid=$(cat "$ENGINE_PID_FILE" 2>/dev/null) || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "dockerd .*$ENGINE_CONFIG" && echo "$pid"
}

use_own_engine() {
  export DOCKER_HOST=unix://$ENGINE_SOCKET DOCKER_BUILDKIT=0
}

ensure_docker() {
  if engine_pid >/dev/null; then
    use_own_engine
    docker info >/dev/null 2>&1 && return 0
  fi
  [ "${DOCKER_HOST:-}" != "unix://$ENGINE_SOCKET" ] || unset DOCKER_HOST DOCKER_BUILDKIT
  if have docker && docker info >/dev/null 2>&1; then
    return 0
  fi
  is_root || die "docker does not answer ('docker info' fails). Start Docker, or install it:  https://docs.docker.com/engine/install/   (to have this script start an engine: run it as root on Debian)"
  is_debian || die "docker does not answer ('docker info' fails). Start or install it with your system's packages (for example: dnf install docker && systemctl start docker)"
  install_engine
  start_engine
}

install_engine() {
  local policy=/usr/sbin/policy-rc.d
  # Kept from starting a system-wide dockerd at installation: ours is enough, and `down` can end it.
  if ! have dockerd && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# brainy-e2e, while it installs docker.io\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  need dockerd=docker.io docker=docker.io iptables=iptables jq=jq ip=iproute2
  if grep -q brainy-e2e "$policy" 2>/dev/null; then
    rm -f "$policy"
    trap - EXIT
  fi
}

# Whether docker may use every capability; without CAP_SYS_RESOURCE (24) its --privileged fails.
lacks_sys_resource() {
  local bounding
  bounding=$(sed -nE 's/^CapBnd:\s*//p' /proc/self/status)
  [ $(((16#$bounding >> 24) & 1)) = 0 ]
}

write_engine_config() {
  local wrapper=$BRAINY_CACHE/docker-engine/runc-without-sys-resource runtimes=''
  if lacks_sys_resource; then
    say "this machine withholds CAP_SYS_RESOURCE: containers are started without it"
    install -D -m 0755 "$CLUSTER_DIR/runc-without-sys-resource" "$wrapper"
    runtimes='"runtimes": {"runc-without-sys-resource": {"path": "'$wrapper'"}}, "default-runtime": "runc-without-sys-resource",'
  fi
  cat >"$ENGINE_CONFIG" <<JSON
{
  "data-root": "$BRAINY_CACHE/docker",
  "exec-root": "$BRAINY_DOCKER_RUN/exec",
  "pidfile": "$ENGINE_PID_FILE",
  "hosts": ["unix://$ENGINE_SOCKET"],
  "cgroup-parent": "$ENGINE_CGROUP",
  "default-cgroupns-mode": "private",
  $runtimes
  "ip6tables": false
}
JSON
}

start_engine() {
  local i pid
  stop_engine
  mkdir -p "$BRAINY_DOCKER_RUN" "$BRAINY_CACHE/logs" "$BRAINY_CACHE/docker"
  say "starting a docker engine of our own (socket $ENGINE_SOCKET, log $ENGINE_LOG)"
  save_host_state
  write_engine_config
  setsid nohup dockerd --config-file "$ENGINE_CONFIG" >"$ENGINE_LOG" 2>&1 </dev/null {LOCK_FD}>&- &
  pid=$!
  use_own_engine
  for i in $(seq 1 150); do
    docker info >/dev/null 2>&1 && return 0
    kill -0 "$pid" 2>/dev/null || break
    [ "$i" = 25 ] && say "waiting for dockerd to answer"
    sleep 0.2
  done
  tail -n 20 "$ENGINE_LOG" >&2
  die "dockerd did not start"
}

# Processes that belong to our engine: dockerd itself, its containerd, and containerd's shims. All name our run folder.
engine_processes() {
  local dir
  for dir in /proc/[0-9]*; do
    tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -qE "^(\S*/)?(dockerd|containerd|containerd-shim\S*|docker-proxy) .*$BRAINY_DOCKER_RUN/" && echo "${dir#/proc/}"
  done
  return 0
}

wait_gone() { # wait_gone SECONDS PID...
  local deadline=$((SECONDS + $1)) pid
  shift
  for pid in "$@"; do
    while kill -0 "$pid" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    kill -0 "$pid" 2>/dev/null && return 1
  done
  return 0
}

# Ends our engine and all that it made on the host: processes, mounts, bridge, iptables rules, cgroups. Images stay in the cache.
stop_engine() {
  local pid rest target data_root
  is_root || return 0
  if pid=$(engine_pid); then
    say "stopping our docker engine (pid $pid)"
    kill "$pid" 2>/dev/null || true
    wait_gone 30 "$pid" || say "dockerd (pid $pid) does not end by itself"
  fi
  mapfile -t rest < <(engine_processes)
  if [ ${#rest[@]} -gt 0 ]; then
    kill "${rest[@]}" 2>/dev/null || true
    wait_gone 5 "${rest[@]}" || kill -9 "${rest[@]}" 2>/dev/null || true
  fi
  [ -d "$BRAINY_DOCKER_RUN" ] || return 0
  # Containers that outlived a dockerd which was killed.
  for target in /sys/fs/cgroup{,/pids}"$ENGINE_CGROUP"; do
    [ -d "$target" ] || continue
    mapfile -t rest < <(find "$target" -name cgroup.procs -exec cat {} + 2>/dev/null)
    [ ${#rest[@]} = 0 ] || kill -9 "${rest[@]}" 2>/dev/null || true
  done
  # What is mounted under our folders and nowhere else, the deepest first.
  data_root=$(jq -r '."data-root"' "$ENGINE_CONFIG" 2>/dev/null) || data_root=$BRAINY_CACHE/docker
  while read -r target; do umount "$target" 2>/dev/null || umount -l "$target" || true; done < <(
    awk -v a="$BRAINY_DOCKER_RUN/" -v b="$data_root/" '{ p = $5 "/" } index(p, a) == 1 || index(p, b) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
  restore_host_state
  rm -rf --one-file-system "$BRAINY_DOCKER_RUN"
}
