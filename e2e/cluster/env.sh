# shellcheck shell=bash
# To be sourced: the environment in which the tools and the cluster are reached. Cheap, and never fails when nothing is up.

export BRAINY_CACHE=${BRAINY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/brainy-operator}
BRAINY_STATE=${BRAINY_STATE:-$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/../.." && pwd)/.state}
export BRAINY_STATE
export BRAINY_CLUSTER_NAME=${BRAINY_CLUSTER_NAME:-brainy-e2e}
export KUBECONFIG=$BRAINY_STATE/kubeconfig

case ":$PATH:" in
  *":$BRAINY_CACHE/bin:"*) ;;
  *) export PATH="$BRAINY_CACHE/bin:$PATH" ;;
esac

# Only there when up.sh had to start a docker engine of its own: one per machine, shared by all clones.
BRAINY_DOCKER_RUN=/run/brainy-e2e-docker
if [ -S "$BRAINY_DOCKER_RUN/docker.sock" ]; then
  export DOCKER_HOST=unix://$BRAINY_DOCKER_RUN/docker.sock
  # Debian's engine knows only the classic builder.
  export DOCKER_BUILDKIT=0
fi
