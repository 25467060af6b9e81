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

version_of() {
  case $1 in
    cert-manager) echo "$CERT_MANAGER_VERSION" ;;
    coredns) echo "$COREDNS_VERSION" ;;
    daprd | placement) echo "$DAPR_VERSION" ;;
    etcd) echo "$ETCD_VERSION" ;;
    helm) echo "$HELM_VERSION" ;;
    kind) echo "$KIND_VERSION" ;;
    kwok) echo "$KWOK_VERSION" ;;
    local-path-provisioner) echo "$LOCAL_PATH_VERSION" ;;
    # What is built of kube-router is our own program.
    network-policies) echo "$KUBE_ROUTER_VERSION-$(sha256sum <"$CLUSTER_DIR/network-policies/main.go" | cut -c1-8)" ;;
    rclone) echo "$RCLONE_VERSION" ;;
    versitygw) echo "$VERSITYGW_VERSION" ;;
    *) echo "$KUBERNETES_VERSION" ;;
  esac
}

is_built() {
  local name
  for name in "$@"; do
    [ -x "$TOOLS_DIR/$name-$(version_of "$name")" ] || return 1
  done
}

# build_installable NAME PACKAGE HOW-LONG [LDFLAGS]: for modules that plain `go install` accepts.
build_installable() {
  local name=$1 package=$2 how_long=$3 flags=${4:-} version out
  is_built "$name" && return 0
  need_go
  local LOCK_FD
  start_build "$name"
  is_built "$name" && { exec {LOCK_FD}>&-; return 0; }
  version=$(version_of "$name")
  say "building $name $version from Go modules ($how_long the first time)"
  out=$(new_tmp "build-$name")
  GOBIN=$out quietly "build-$name" go_static install -trimpath -ldflags "$GO_STRIP $flags" "$package@$version"
  mv "$out/$(basename "$package")" "$out/$name-$version"
  into_tools "$out"
  exec {LOCK_FD}>&-
}

# build_dapr NAME HOW-LONG: dapr's module replaces others, which `go install` refuses: its programs are built in a copy of its own
# sources. They share most of what they are made of.
build_dapr() {
  local name=$1 how_long=$2 out=$TOOLS_DIR/$1-$DAPR_VERSION source copy
  [ -x "$out" ] && return 0
  need_go
  local LOCK_FD
  start_build dapr
  [ -x "$out" ] && { exec {LOCK_FD}>&-; return 0; }
  say "building dapr's $name $DAPR_VERSION from Go modules ($how_long the first time)"
  source=$(go mod download -json "github.com/dapr/dapr@$DAPR_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
  copy=$(new_tmp build-dapr.module)
  cp -r --no-preserve=mode "$source/." "$copy"
  quietly "build-dapr-$name" go_static -C "$copy" build -trimpath -tags stablecomponents -ldflags "$GO_STRIP" -o "$copy/$name-$DAPR_VERSION" "./cmd/$name"
  mkdir -p "$TOOLS_DIR"
  mv "$copy/$name-$DAPR_VERSION" "$out"
  rm -rf "$copy"
  exec {LOCK_FD}>&-
}

# build_cert_manager: its controller, from its packages: the module of its own program is published nowhere. `cert-manager crds` prints
# the CustomResourceDefinitions that it goes with.
build_cert_manager() {
  local LOCK_FD source mod
  is_built cert-manager && return 0
  need_go
  start_build cert-manager
  is_built cert-manager && { exec {LOCK_FD}>&-; return 0; }
  say "building cert-manager $CERT_MANAGER_VERSION from Go modules (about 3 min the first time)"
  mod=$(new_tmp build-cert-manager)
  source=$(go mod download -json "github.com/cert-manager/cert-manager@$CERT_MANAGER_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
  cp -r --no-preserve=mode "$source/deploy/crds" "$mod/crds"
  printf 'module brainy-e2e/cert-manager\n\n%s\n\nrequire github.com/cert-manager/cert-manager %s\n' \
    "$(grep -E '^go ' "$source/go.mod")" "$CERT_MANAGER_VERSION" >"$mod/go.mod"
  cp "$CLUSTER_DIR/cert-manager/main.go" "$mod/main.go"
  quietly cert-manager-module go_static -C "$mod" get .
  quietly build-cert-manager go_static -C "$mod" build -trimpath -ldflags "$GO_STRIP" -o "$mod/cert-manager-$CERT_MANAGER_VERSION" .
  mkdir -p "$TOOLS_DIR"
  mv "$mod/cert-manager-$CERT_MANAGER_VERSION" "$TOOLS_DIR/"
  rm -rf "$mod"
  exec {LOCK_FD}>&-
}

# build_rclone: its commands and stores from its module, those that are tested with (rclone/main.go).
build_rclone() {
  local LOCK_FD source mod
  is_built rclone && return 0
  need_go
  start_build rclone
  is_built rclone && { exec {LOCK_FD}>&-; return 0; }
  say "building rclone $RCLONE_VERSION from Go modules (about 3 min the first time)"
  mod=$(new_tmp build-rclone)
  source=$(go mod download -json "github.com/rclone/rclone@$RCLONE_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
  # The versions of all that it is made of are those that it was published with.
  sed -E 's#^module .*#module brainy-e2e/rclone#' "$source/go.mod" >"$mod/go.mod"
  printf '\nrequire github.com/rclone/rclone %s\n' "$RCLONE_VERSION" >>"$mod/go.mod"
  cp --no-preserve=mode "$source/go.sum" "$mod/go.sum"
  cp "$CLUSTER_DIR/rclone/main.go" "$mod/main.go"
  # `go get` would fetch what all of its stores are made of.
  quietly build-rclone go_static -C "$mod" build -mod=mod -trimpath -ldflags "$GO_STRIP -X github.com/rclone/rclone/fs.Version=$RCLONE_VERSION" \
    -o "$mod/rclone-$RCLONE_VERSION" .
  mkdir -p "$TOOLS_DIR"
  mv "$mod/rclone-$RCLONE_VERSION" "$TOOLS_DIR/"
  rm -rf "$mod"
  exec {LOCK_FD}>&-
}

# The programs of a node, kubectl and helm are all built in one Go module: what they share (client-go, gRPC, ...) is then
# compiled once.
package_of() {
  case $1 in
    coredns) echo ./coredns ;;
    etcd) echo ./etcd ;;
    helm) echo helm.sh/helm/v3/cmd/helm ;;
    local-path-provisioner) echo github.com/rancher/local-path-provisioner ;;
    network-policies) echo ./network-policies ;;
    *) echo "k8s.io/kubernetes/cmd/$1" ;;
  esac
}

# build_kubernetes_programs NAME...: kubelet, kubeadm, etcd, ...
build_kubernetes_programs() {
  local name names=() out mod
  is_built "$@" && return 0
  need_go
  local LOCK_FD
  start_build kubernetes-programs
  for name in "$@"; do
    is_built "$name" || names+=("$name")
  done
  if [ ${#names[@]} -gt 0 ]; then
    say "building ${names[*]} for Kubernetes $KUBERNETES_VERSION from Go modules (about 3 min for one, 6 min for all the first time)"
    mod=$(new_tmp build-kubernetes-programs.module)
    quietly kubernetes-programs-module write_kubernetes_module "$mod" "${names[@]}"
    out=$(new_tmp build-kubernetes-programs)
    quietly build-kubernetes-programs compile_kubernetes_programs "$mod" "$out/" "${names[@]}"
    for name in "$out"/*; do mv "$name" "$name-$(version_of "${name##*/}")"; done
    into_tools "$out"
    rm -rf "$mod"
  fi
  exec {LOCK_FD}>&-
}

# In two rounds: local-path-provisioner imports a module by a name that differs only by a capital from the others'.
compile_kubernetes_programs() {
  local mod=$1 out=$2 name together=() apart=() round
  shift 2
  for name in "$@"; do
    case $name in local-path*) apart+=("$(package_of "$name")") ;; *) together+=("$(package_of "$name")") ;; esac
  done
  for round in "${together[*]}" "${apart[*]}"; do
    [ -n "$round" ] || continue
    # shellcheck disable=SC2086  # package names
    go_static -C "$mod" build -trimpath -o "$out" -ldflags "$GO_STRIP \
      -X k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION \
      -X k8s.io/component-base/version.gitMajor=1 \
      -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION") \
      -X k8s.io/component-base/version.gitTreeState=clean \
      -X k8s.io/client-go/pkg/version.gitVersion=$KUBERNETES_VERSION \
      -X helm.sh/helm/v3/internal/version.version=$HELM_VERSION" $round
  done
}

# k8s.io/kubernetes replaces its staging modules by folders which its module does not hold; their published versions stand in.
# All versions stand in the module whatever is built from it, so that a program built later finds the shared parts compiled.
write_kubernetes_module() {
  local mod=$1 source staging
  shift
  source=$(go mod download -json "k8s.io/kubernetes@$KUBERNETES_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
  {
    printf 'module brainy-e2e/kubernetes\n\n%s\n\n' "$(grep -E '^go ' "$source/go.mod")"
    grep -E '^godebug ' "$source/go.mod" || true
    printf 'require (\n\t%s\n\t%s\n\t%s\n\t%s\n\t%s\n\t%s\n)\n\nreplace (\n' "k8s.io/kubernetes $KUBERNETES_VERSION" \
      "helm.sh/helm/v3 $HELM_VERSION" "go.etcd.io/etcd/server/v3 $ETCD_VERSION" "github.com/coredns/coredns $COREDNS_VERSION" \
      "github.com/rancher/local-path-provisioner $LOCAL_PATH_VERSION" "github.com/cloudnativelabs/kube-router/v2 $KUBE_ROUTER_VERSION"
    while read -r staging; do printf '\t%s => %s %s\n' "$staging" "$staging" "$KUBERNETES_STAGING_VERSION"; done \
      < <(sed -nE 's#^\s*(k8s\.io/\S+) => \./staging/.*#\1#p' "$source/go.mod")
    printf ')\n'
  } >"$mod/go.mod"
  mkdir "$mod/coredns" "$mod/etcd"
  cp -r "$CLUSTER_DIR/network-policies" "$mod/network-policies"
  write_coredns_main >"$mod/coredns/main.go"
  # The folder names the program.
  printf 'package main\n\nimport "go.etcd.io/etcd/server/v3/etcdmain"\nimport "os"\n\nfunc main() { etcdmain.Main(os.Args) }\n' >"$mod/etcd/main.go"
  # Without its version a package would be fetched in its newest one.
  # shellcheck disable=SC2046  # package names
  go_static -C "$mod" get ./coredns ./etcd ./network-policies $(with_versions "$@")
}

with_versions() {
  local name package
  for name in "$@"; do
    package=$(package_of "$name")
    case $package in ./*) ;; *) echo "$package@$(version_of "$name")" ;; esac
  done
}

# CoreDNS with the plugins that kubeadm's Corefile names: all of them would compile the client libraries of several clouds.
write_coredns_main() {
  local plugin
  printf 'package main\n\nimport "github.com/coredns/coredns/coremain"\n'
  for plugin in cache errors forward health kubernetes loadbalance loop metrics ready reload; do
    printf 'import _ "github.com/coredns/coredns/plugin/%s"\n' "$plugin"
  done
  printf '\nfunc main() { coremain.Run() }\n'
}

# node_binaries: all the programs of the node image.
node_binaries() {
  build_kubernetes_programs kubectl kubelet kubeadm kube-apiserver kube-controller-manager kube-scheduler kube-proxy \
    etcd coredns local-path-provisioner network-policies
}
