#!/usr/bin/env bash
# Installs or upgrades, on the cluster of KUBECONFIG: the S3 server of the tests, and the operator by its Helm chart.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
refresh

NAMESPACE=brainy-system

[ -n "${BRAINY_OPERATOR_IMAGE:-}" ] || die "the images are not built yet: run 'make images'"

storage() {
  sed "s|image: brainy-versitygw:dev|image: $BRAINY_VERSITYGW_IMAGE|" e2e/manifests/versitygw.yaml | kubectl apply --server-side --force-conflicts -f - >/dev/null
}

operator() {
  helm upgrade --install brainy-operator charts/brainy-operator --namespace $NAMESPACE --create-namespace \
    --set-string "image.operator.repository=${BRAINY_OPERATOR_IMAGE%:*},image.operator.tag=${BRAINY_OPERATOR_IMAGE##*:}" \
    --set-string "image.sidecar.repository=${BRAINY_SIDECAR_IMAGE%:*},image.sidecar.tag=${BRAINY_SIDECAR_IMAGE##*:}" \
    --wait --timeout 5m
}

storage
operator
kubectl -n brainy-storage rollout status deployment/versitygw --timeout=300s
