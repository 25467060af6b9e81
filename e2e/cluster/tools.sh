#!/usr/bin/env bash
# tools.sh [kind|kubectl|helm|versitygw ...]: puts the named tools (default: all) into $BRAINY_CACHE/bin. Needs Go, not docker.
# A tool is kept as tools/NAME-VERSION; bin/NAME is a link to it. What is there in the right version is not rebuilt.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=go-build.sh
source "$CLUSTER_DIR/go-build.sh"

# The user's own kubectl, looked for outside our bin folder, when it is recent enough.
own_kubectl() {
  local path minor
  path=$(PATH=${PATH//"$BRAINY_CACHE/bin:"/} command -v kubectl) || return 1
  minor=$("$path" version --client 2>/dev/null | sed -nE 's/^Client Version: v1\.([0-9]+)\..*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$KUBECTL_OWN_MIN_MINOR" ] && echo "$path"
}

link() { # link NAME TARGET
  mkdir -p "$BRAINY_CACHE/bin"
  [ "$(readlink "$BRAINY_CACHE/bin/$1" 2>/dev/null)" = "$2" ] && return 0
  ln -s "$2" "$BRAINY_CACHE/bin/.$1.$$"
  mv -T "$BRAINY_CACHE/bin/.$1.$$" "$BRAINY_CACHE/bin/$1"
}

tool() {
  local name=$1 path
  case $name in
    kind)      build_installable kind "$KIND_VERSION" sigs.k8s.io/kind "about 10 s" ;;
    helm)      build_installable helm "$HELM_VERSION" helm.sh/helm/v3/cmd/helm "about 90 s" \
                 "-X helm.sh/helm/v3/internal/version.version=$HELM_VERSION" ;;
    versitygw) build_installable versitygw "$VERSITYGW_VERSION" github.com/versity/versitygw/cmd/versitygw "about 70 s" \
                 "-X main.Version=$VERSITYGW_VERSION" ;;
    kubectl)
      if [ ! -x "$TOOLS_DIR/kubectl-$KUBERNETES_VERSION" ] && path=$(own_kubectl); then
        link kubectl "$path"
        return
      fi
      build_node_programs kubectl ;;
    *) die "unknown tool: $name (there are: kind kubectl helm versitygw)" ;;
  esac
  case $name in kubectl) path=$KUBERNETES_VERSION ;; kind) path=$KIND_VERSION ;; helm) path=$HELM_VERSION ;; *) path=$VERSITYGW_VERSION ;; esac
  link "$name" "$TOOLS_DIR/$name-$path"
}

[ $# -gt 0 ] || set -- kind kubectl helm versitygw
for name in "$@"; do tool "$name"; done
