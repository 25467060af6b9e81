# shellcheck shell=bash
# Builds static programs from Go modules into $TOOLS_DIR/NAME-VERSION. Sourced, after lib.sh.

GO_STRIP="-s -w"

# into_tools DIR NAME...: moves finished binaries DIR/NAME-VERSION into the cache, each by one rename.
into_tools() {
  mkdir -p "$TOOLS_DIR"
  mv "$1"/* "$TOOLS_DIR/"
  rm -rf "$1"
}

# start_build NAME: one build of a thing at a time; what an interrupted one left behind is removed.
start_build() {
  lock "build-$1"
  rm -rf "${BRAINY_CACHE:?}/tmp/build-$1".*
}

# The compiler itself is a Go program of many short-lived processes: with more memory it spends less time collecting garbage.
go_static() { CGO_ENABLED=0 GOWORK=off GOGC=${GOGC:-400} go "$@"; }

# build_installable NAME VERSION PACKAGE HOW-LONG [LDFLAGS]: for modules that plain `go install` accepts.
build_installable() {
  local name=$1 version=$2 package=$3 how_long=$4 flags=${5:-} out
  [ -x "$TOOLS_DIR/$name-$version" ] && return 0
  need_go
  local LOCK_FD
  start_build "$name"
  [ -x "$TOOLS_DIR/$name-$version" ] && { exec {LOCK_FD}>&-; return 0; }
  say "building $name $version from Go modules ($how_long the first time)"
  out=$(new_tmp "build-$name")
  GOBIN=$out quietly "build-$name" go_static install -trimpath -ldflags "$GO_STRIP $flags" "$package@$version"
  mv "$out/$(basename "$package")" "$out/$name-$version"
  into_tools "$out"
  exec {LOCK_FD}>&-
}

# build_kubernetes NAME...: kubelet, kubeadm, ... of $KUBERNETES_VERSION, in one go.
# k8s.io/kubernetes replaces its staging modules by folders which its module does not hold; their published versions stand in.
build_kubernetes() {
  local name wanted=() packages=() out mod
  for name in "$@"; do
    [ -x "$TOOLS_DIR/$name-$KUBERNETES_VERSION" ] || wanted+=("$name")
  done
  [ ${#wanted[@]} -gt 0 ] || return 0
  need_go
  local LOCK_FD
  start_build kubernetes
  for name in "${wanted[@]}"; do
    [ -x "$TOOLS_DIR/$name-$KUBERNETES_VERSION" ] || packages+=("k8s.io/kubernetes/cmd/$name")
  done
  if [ ${#packages[@]} -gt 0 ]; then
    say "building ${packages[*]##*/} $KUBERNETES_VERSION from Go modules (about 3 min for one, 6 min for all the first time)"
    mod=$(new_tmp build-kubernetes.module)
    quietly kubernetes-module write_kubernetes_module "$mod" "${packages[@]}"
    out=$(new_tmp build-kubernetes)
    quietly build-kubernetes go_static -C "$mod" build -trimpath -o "$out/" -ldflags "$GO_STRIP \
      -X k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION \
      -X k8s.io/component-base/version.gitMajor=1 \
      -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION") \
      -X k8s.io/component-base/version.gitTreeState=clean \
      -X k8s.io/client-go/pkg/version.gitVersion=$KUBERNETES_VERSION" "${packages[@]}"
    for name in "$out"/*; do mv "$name" "$name-$KUBERNETES_VERSION"; done
    into_tools "$out"
    rm -rf "$mod"
  fi
  exec {LOCK_FD}>&-
}

write_kubernetes_module() {
  local mod=$1 source staging tools
  shift
  source=$(go mod download -json "k8s.io/kubernetes@$KUBERNETES_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
  {
    printf 'module brainy-e2e/kubernetes\n\n%s\n\n' "$(grep -E '^go ' "$source/go.mod")"
    grep -E '^godebug ' "$source/go.mod" || true
    printf 'replace (\n'
    while read -r staging; do printf '\t%s => %s %s\n' "$staging" "$staging" "$KUBERNETES_STAGING_VERSION"; done \
      < <(sed -nE 's#^\s*(k8s\.io/\S+) => \./staging/.*#\1#p' "$source/go.mod")
    printf ')\n'
  } >"$mod/go.mod"
  tools=("${@/%/@$KUBERNETES_VERSION}")
  go_static -C "$mod" get -tool "${tools[@]}"
}

# build_etcd: a module of its own, because `go install` refuses etcd's replace lines.
build_etcd() {
  local out mod
  [ -x "$TOOLS_DIR/etcd-$ETCD_VERSION" ] && return 0
  need_go
  local LOCK_FD
  start_build etcd
  [ -x "$TOOLS_DIR/etcd-$ETCD_VERSION" ] && { exec {LOCK_FD}>&-; return 0; }
  say "building etcd $ETCD_VERSION from Go modules (about 1 min the first time)"
  mod=$(new_tmp build-etcd.module)
  out=$(new_tmp build-etcd)
  printf 'module brainy-e2e/etcd\n' >"$mod/go.mod"
  quietly etcd-module go_static -C "$mod" get -tool "go.etcd.io/etcd/server/v3@$ETCD_VERSION"
  quietly build-etcd go_static -C "$mod" build -trimpath -ldflags "$GO_STRIP" -o "$out/etcd-$ETCD_VERSION" go.etcd.io/etcd/server/v3
  into_tools "$out"
  rm -rf "$mod"
  exec {LOCK_FD}>&-
}

# node_binaries: all the programs of the node image.
node_binaries() {
  build_kubernetes kubectl kubelet kubeadm kube-apiserver kube-controller-manager kube-scheduler kube-proxy
  build_etcd
  build_installable coredns "$COREDNS_VERSION" github.com/coredns/coredns "about 2 min"
  build_installable local-path-provisioner "$LOCAL_PATH_VERSION" github.com/rancher/local-path-provisioner "about 1 min"
}
