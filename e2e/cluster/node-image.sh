# shellcheck shell=bash
# The node image: kind's official one where it can be pulled, else one built from Debian packages and Go modules. Sourced, after lib.sh.
# BRAINY_NODE_IMAGE=official or =built decides instead of the search.

source "$CLUSTER_DIR/go-build.sh"
source "$CLUSTER_DIR/node-rootfs.sh"

NODE_BUILD_CONTAINER=brainy-e2e-node-build

# Named after all that goes into it, so that a changed recipe gives another image.
built_node_image() {
  local key
  key=$( (
    cat "$CLUSTER_DIR"/{versions,node-rootfs,node-image,node-image-setup,go-build}.sh "$CLUSTER_DIR"/{pause/main.go,network-policies/*}
    uname -m
  ) | sha256sum | cut -c1-12)
  echo "brainy-e2e/node:$KUBERNETES_VERSION-$key"
}

image_exists() { docker image inspect "$1" >/dev/null 2>&1; }

# Sets NODE_IMAGE and, when it is our own build, NODE_IMAGE_BUILT=1.
# shellcheck disable=SC2034
ensure_node_image() {
  local choice=${BRAINY_NODE_IMAGE:-} built
  built=$(built_node_image)
  NODE_IMAGE=$OFFICIAL_NODE_IMAGE NODE_IMAGE_BUILT=
  if [ "$choice" != built ]; then
    image_exists "$NODE_IMAGE" && return 0
    if [ "$choice" = official ] || ! image_exists "$built"; then
      say "pulling ${NODE_IMAGE%@*} (about 1 GB)"
      if quietly docker-pull docker pull "$NODE_IMAGE" 2>/dev/null; then return 0; fi
      [ "$choice" != official ] || die "cannot pull $NODE_IMAGE (see $BRAINY_CACHE/logs/docker-pull.log)"
      say "no registry to pull from: $(tail -n 1 "$BRAINY_CACHE/logs/docker-pull.log")"
    fi
  fi
  NODE_IMAGE=$built NODE_IMAGE_BUILT=1
  image_exists "$built" && return 0
  { is_root && is_debian; } || die "the node image cannot be pulled, and building it from packages needs root on Debian. Give docker access to a registry, or run as root on Debian"
  build_node_image "$built"
}

build_node_image() {
  local image=$1 stage rootfs
  local began=$SECONDS
  say "building the node image from Debian packages and Go modules (about 12 min in all the first time)"
  need_go
  need jq=jq debootstrap=debootstrap
  # The downloads of the one overlap with the compiling of the other.
  # In a process group of its own, which is ended when this script is.
  set -m
  build_node_rootfs &
  rootfs=$!
  set +m
  trap 'kill -- -'"$rootfs"' 2>/dev/null || true' EXIT
  node_binaries
  wait "$rootfs" || die "the node's root filesystem could not be made"

  trap - EXIT

  docker rm -f "$NODE_BUILD_CONTAINER" >/dev/null 2>&1 || true
  say "putting the node image together (about 1 min)"
  stage=$(new_tmp node-stage)
  chmod 0755 "$stage"
  stage_node_files "$stage"
  docker import -c 'ENV container=docker' - brainy-e2e/node-base:build <"$(node_rootfs_tar)" >/dev/null
  docker run -d --privileged --network none --name "$NODE_BUILD_CONTAINER" --entrypoint sleep brainy-e2e/node-base:build infinity >/dev/null
  docker cp "$stage/." "$NODE_BUILD_CONTAINER:/"
  quietly node-image-setup docker exec "$NODE_BUILD_CONTAINER" bash /kind/node-image-setup.sh
  import_control_plane_images "$stage.images"
  docker commit -c 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' \
    "$NODE_BUILD_CONTAINER" "$image" >/dev/null
  docker rm -f "$NODE_BUILD_CONTAINER" >/dev/null
  docker rmi brainy-e2e/node-base:build >/dev/null 2>&1 || true
  rm -rf "$stage" "$stage.images"
  # Earlier builds; one that a cluster still uses is refused, and stays.
  docker images --format '{{.Repository}}:{{.Tag}}' brainy-e2e/node | grep -vxF "$image" | xargs -r -n 1 docker rmi >/dev/null 2>&1 || true
  say "node image $image built in $((SECONDS - began)) s"
}

# Kind's own files for a node, from its Go module, and the Kubernetes programs.
stage_node_files() {
  local stage=$1 kind_module base name
  kind_module=$(go mod download -json "sigs.k8s.io/kind@$KIND_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')
  base=$kind_module/images/base/files
  (
    cd "$base" || exit
    find etc kind -type f ! -name '*.sh' -exec install -D -m 0644 {} "$stage/{}" \;
    find kind/bin usr/local/bin -type f -exec install -D -m 0755 {} "$stage/{}" \;
  )
  for name in kubelet kubeadm kubectl; do
    install -D -m 0755 "$TOOLS_DIR/$name-$KUBERNETES_VERSION" "$stage/usr/bin/$name"
  done
  install -D -m 0755 "$TOOLS_DIR/network-policies-$(version_of network-policies)" "$stage/usr/local/bin/network-policies"
  install -D -m 0644 "$CLUSTER_DIR/network-policies/network-policies.service" "$stage/etc/systemd/system/network-policies.service"
  printf %s "$KUBERNETES_VERSION" >"$stage/kind/version"
  # Kind's default storage manifest is a Go constant with the image names spliced in.
  local storage=$kind_module/pkg/build/nodeimage/const_storage.go
  mkdir -p "$stage/kind/manifests"
  # shellcheck disable=SC2016
  sed -n '/^const defaultStorageManifest = `/,/^`/p' "$storage" | sed '1d;$d' |
    sed -e "s#\` + storageProvisionerImage + \`#$(go_constant storageProvisionerImage "$storage")#" \
      -e "s#\` + storageHelperImage + \`#$(go_constant storageHelperImage "$storage")#" >"$stage/kind/manifests/default-storage.yaml"
  install -m 0755 "$CLUSTER_DIR/node-image-setup.sh" "$stage/kind/node-image-setup.sh"
}

go_constant() { sed -nE "s/^const $1 = \"(.*)\"/\1/p" "$2"; }

# The images that kubeadm and kind's manifests name, made from our static programs and loaded into the node image's containerd.
import_control_plane_images() {
  local dir=$1 name ref refs=() asked_for
  local storage
  storage=$(go mod download -json "sigs.k8s.io/kind@$KIND_VERSION" | sed -nE 's/^\t"Dir": "(.*)",?$/\1/p')/pkg/build/nodeimage/const_storage.go
  rm -rf "$dir"
  asked_for=$(docker exec "$NODE_BUILD_CONTAINER" kubeadm config images list --kubernetes-version "$KUBERNETES_VERSION" 2>/dev/null)

  image_from() { # image_from REF ENTRYPOINT: from folder $dir/root
    tar -C "$dir/root" --owner=0 --group=0 -cf - . | docker import -c "ENTRYPOINT [\"$2\"]" \
      -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$1" >/dev/null
    refs+=("$1")
    rm -rf "$dir/root"
  }

  while read -r ref; do
    name=${ref##*/} name=${name%:*}
    mkdir -p "$dir/root/tmp"
    case $name in
      kube-proxy) docker exec "$NODE_BUILD_CONTAINER" bash /kind/node-image-setup.sh kube-proxy-files | tar -C "$dir/root" -xf - ;;&
      kube-*) install -D "$TOOLS_DIR/$name-$KUBERNETES_VERSION" "$dir/root/usr/local/bin/$name" ;;
      etcd) install -D "$TOOLS_DIR/etcd-$ETCD_VERSION" "$dir/root/usr/local/bin/etcd" ;;
      coredns) install -D "$TOOLS_DIR/coredns-$COREDNS_VERSION" "$dir/root/usr/local/bin/coredns" ;;
      pause)
        # The one that kind's containerd configuration names, which may not be kubeadm's.
        ref=$(docker exec "$NODE_BUILD_CONTAINER" sed -nE 's/^ *sandbox_image = "(.*)"/\1/p' /etc/containerd/config.toml)
        mkdir -p "$dir/root/usr/local/bin"
        (cd "$CLUSTER_DIR/pause" && CGO_ENABLED=0 GOWORK=off GO111MODULE=off go build -trimpath -ldflags "$GO_STRIP" -o "$dir/root/usr/local/bin/pause" main.go) ;;
      *) die "kubeadm asks for an image that is not known here: $ref" ;;
    esac
    image_from "$ref" "/usr/local/bin/$name"
  done <<<"$asked_for"

  install -D "$TOOLS_DIR/local-path-provisioner-$LOCAL_PATH_VERSION" "$dir/root/usr/local/bin/local-path-provisioner"
  image_from "$(go_constant storageProvisionerImage "$storage")" /usr/local/bin/local-path-provisioner
  mkdir -p "$dir/root/bin" "$dir/root/tmp"
  docker exec "$NODE_BUILD_CONTAINER" cat /usr/bin/busybox >"$dir/root/bin/busybox"
  chmod 0755 "$dir/root/bin/busybox"
  for name in sh mkdir rm; do ln -s busybox "$dir/root/bin/$name"; done
  image_from "$(go_constant storageHelperImage "$storage")" /bin/sh

  docker exec "$NODE_BUILD_CONTAINER" bash /kind/node-image-setup.sh start-containerd
  docker save "${refs[@]}" | docker exec -i "$NODE_BUILD_CONTAINER" \
    ctr --namespace k8s.io images import --label io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests - >/dev/null
  docker exec "$NODE_BUILD_CONTAINER" bash /kind/node-image-setup.sh stop-containerd
  docker rmi "${refs[@]}" >/dev/null
}
