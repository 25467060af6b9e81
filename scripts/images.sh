#!/usr/bin/env bash
# Builds the images: FROM scratch, one static binary each. A tag is the hash of what is in the image, so that a cluster never
# runs an older one under the same name. Writes their names to $BRAINY_STATE/images.env and loads them into our cluster; with
# E2E_REGISTRY=host/path they are pushed there instead, for the cluster of E2E_KUBECONFIG.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LIMIT=$((40 * 1000 * 1000))
NAMES=()

certificates() {
  local file
  for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -s "$file" ]; then echo "$file"; return; fi
  done
  die "no CA certificates found. Install them:  sudo apt-get install ca-certificates"
}

# image NAME BINARY VARIABLE [LIMIT]
image() {
  local name=$1 binary=$2 variable=$3 limit=${4:-} context hash reference size
  context=$BRAINY_STATE/images/$name
  rm -rf "$context"
  mkdir -p "$context"
  cp "$binary" "$context/$(basename "$name")"
  cp "$(certificates)" "$context/ca-certificates.crt"
  cp "e2e/images/$name.Dockerfile" "$context/Dockerfile"
  hash=$(cd "$context" && sha256sum -- * | sha256sum | cut -c1-12)
  reference=${E2E_REGISTRY:+$E2E_REGISTRY/}$name:$hash
  if ! docker image inspect "$reference" >/dev/null 2>&1; then
    docker build --quiet --tag "$reference" "$context" >/dev/null
  fi
  docker tag "$reference" "${E2E_REGISTRY:+$E2E_REGISTRY/}$name:dev"
  size=$(docker image inspect -f '{{.Size}}' "$reference")
  printf '  %-40s %6.1f MB\n' "$reference" "$(awk "BEGIN { print $size / 1e6 }")"
  if [ -n "$limit" ] && [ "$size" -gt "$limit" ]; then die "$reference has $size bytes; the limit is $limit"; fi
  rm -rf "$context"
  printf '%s=%s\n' "$variable" "$reference" >>"$BRAINY_STATE/images.env.new"
  NAMES+=("$reference" "${E2E_REGISTRY:+$E2E_REGISTRY/}$name:dev")
}

deliver() {
  local reference
  if [ -n "${E2E_REGISTRY:-}" ]; then
    for reference in "${NAMES[@]}"; do docker push --quiet "$reference"; done
  elif [ -n "${E2E_KUBECONFIG:-}" ]; then
    echo "  E2E_KUBECONFIG without E2E_REGISTRY: the cluster must have these images already"
  else
    e2e/cluster/load-images.sh "${NAMES[@]}"
  fi
}

main() {
  local folder
  build_programs
  e2e/cluster/tools.sh versitygw
  folder=$(static_folder)
  mkdir -p "$BRAINY_STATE"
  : >"$BRAINY_STATE/images.env.new"
  image brainy-operator "$folder/brainy-operator" BRAINY_OPERATOR_IMAGE $LIMIT
  image brainy-sidecar "$folder/brainy-sidecar" BRAINY_SIDECAR_IMAGE $LIMIT
  image brainy-e2e-tools "$folder/e2e-tools" BRAINY_TOOLS_IMAGE
  image brainy-versitygw "$BRAINY_CACHE/bin/versitygw" BRAINY_VERSITYGW_IMAGE
  deliver
  mv "$BRAINY_STATE/images.env.new" "$BRAINY_STATE/images.env"
}

main
