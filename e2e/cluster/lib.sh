# shellcheck shell=bash disable=SC2034  # its variables are used by the scripts that source it
# Shared by the scripts in this folder: paths, messages, locks. Sourced, not run.

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
umask 022
# shellcheck source=versions.sh
source "$CLUSTER_DIR/versions.sh"
# shellcheck source=env.sh
source "$CLUSTER_DIR/env.sh"

CLUSTER_NAME=$BRAINY_CLUSTER_NAME
TOOLS_DIR=$BRAINY_CACHE/tools

say()  { printf '[cluster] %s\n' "$*" >&2; }
die()  { printf '[cluster] ERROR: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

is_root()   { [ "$(id -u)" = 0 ]; }
is_debian() { have apt-get && grep -qE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release 2>/dev/null; }

# Scratch space beside the cache, so that a finished thing is moved into place by one rename.
new_tmp() { mkdir -p "$BRAINY_CACHE/tmp" && mktemp -d "$BRAINY_CACHE/tmp/$1.XXXXXX"; }

# lock NAME: held until this script ends. Programs that outlive the script must be started with the descriptor closed (see $LOCK_FD).
lock() {
  local dir=$BRAINY_CACHE/locks
  # The engine and the cluster are one per machine; a build is one per cache.
  if [ "$1" = cluster ] && is_root; then dir=/run/lock/brainy-e2e; fi
  have flock || die "flock is missing. Install with:  sudo apt-get install util-linux   (or your system's equivalent)"
  mkdir -p "$dir"
  exec {LOCK_FD}>"$dir/$1"
  if ! flock -n "$LOCK_FD"; then
    say "waiting for another run to release the lock $dir/$1"
    flock "$LOCK_FD"
  fi
}

# need PROGRAM=PACKAGE...: installs the Debian packages of the programs that are missing, or names them.
need() {
  local pair missing=() packages=()
  for pair in "$@"; do
    have "${pair%%=*}" || { missing+=("${pair%%=*}"); packages+=("${pair#*=}"); }
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if is_root && is_debian; then
    apt_install "${packages[@]}"
  else
    die "missing: ${missing[*]}. Install with:  sudo apt-get install ${packages[*]}   (or your system's equivalent)"
  fi
}

apt_install() {
  local log=$BRAINY_CACHE/logs/apt.log
  mkdir -p "$BRAINY_CACHE/logs"
  say "installing Debian packages: $* (log: $log)"
  export DEBIAN_FRONTEND=noninteractive
  if [ -z "${APT_UPDATED:-}" ]; then
    apt-get update >"$log" 2>&1 || say "apt-get update had errors; going on with the package lists there are"
    APT_UPDATED=1
  fi
  apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get install $* failed"; }
}

need_go() {
  have go || die "Go is missing. Install Go 1.26 or later:  https://go.dev/doc/install"
}

# quietly LOGNAME COMMAND...: output goes to a log, which is shown when the command fails.
quietly() {
  local log=$BRAINY_CACHE/logs/$1.log
  shift
  mkdir -p "$BRAINY_CACHE/logs"
  "$@" >"$log" 2>&1 </dev/null || { tail -n 40 "$log" >&2; say "failed: $* (log: $log)"; return 1; }
}
