#!/usr/bin/env bash
# tools.sh [kind|kubectl|helm|versitygw|daprd|placement|cert-manager|control-plane|rclone ...]: puts the named tools (default: the first four; dapr's are for
# `make bench`, the programs of a control plane for the operator's tests without machines, rclone for the sidecar's of S3) into $BRAINY_CACHE/bin. Needs Go, not docker.
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
  local name=$1 path part
  case $name in
    control-plane)
      build_kubernetes_programs etcd kube-apiserver kube-controller-manager
      for part in etcd kube-apiserver kube-controller-manager kwok cert-manager; do tool "$part"; done
      return ;;
    etcd | kube-apiserver | kube-controller-manager) build_kubernetes_programs "$name" ;;
    kind)      build_installable kind sigs.k8s.io/kind "about 10 s" ;;
    cert-manager) build_cert_manager ;;
    rclone) build_rclone ;;
    kwok)      build_installable kwok sigs.k8s.io/kwok/cmd/kwok "about 2 min" ;;
    helm)      build_kubernetes_programs helm ;;
    versitygw) build_installable versitygw github.com/versity/versitygw/cmd/versitygw "about 70 s" \
                 "-X main.Version=$VERSITYGW_VERSION" ;;
    daprd)     build_dapr daprd "about 5 min" ;;
    placement) build_dapr placement "less than a minute after daprd" ;;
    kubectl)
      if [ ! -x "$TOOLS_DIR/kubectl-$KUBERNETES_VERSION" ] && path=$(own_kubectl); then
        link kubectl "$path"
        return
      fi
      build_kubernetes_programs kubectl ;;
    *) die "unknown tool: $name (there are: kind kubectl helm versitygw daprd placement cert-manager control-plane rclone)" ;;
  esac
  link "$name" "$TOOLS_DIR/$name-$(version_of "$name")"
}

[ $# -gt 0 ] || set -- kind kubectl helm versitygw
for name in "$@"; do tool "$name"; done
