# shellcheck shell=bash disable=SC2034  # sourced
# Every version the cluster is made of. A change here makes what depends on it be rebuilt.

KIND_VERSION=v0.33.0
# The last one made with the client libraries of the Kubernetes below: it is built together with it.
HELM_VERSION=v3.20.2
VERSITYGW_VERSION=v1.8.0
# What `make bench` compares the sidecar with: daprd, and the service that places its actors.
DAPR_VERSION=v1.14.0
# Plays the kubelets of simulated nodes, in the operator's tests against an API server without machines.
KWOK_VERSION=v0.8.0
# Issues certificates in one of the operator's tests against an API server without machines.
CERT_MANAGER_VERSION=v1.21.2
# A client that the sidecar's S3 is tested with.
RCLONE_VERSION=v1.75.1

# The last Kubernetes line that still starts on a cgroup v1 host (with failCgroupV1: false).
KUBERNETES_VERSION=v1.35.4
# client-go, api, apimachinery, ... carry the same release under v0.
KUBERNETES_STAGING_VERSION=v0.${KUBERNETES_VERSION#v1.}
# A user's own kubectl is taken from this minor version on (native sidecars, one minor of skew and one to spare).
KUBECTL_OWN_MIN_MINOR=33

# The image that this kind release publishes for that Kubernetes line; used wherever it can be pulled.
OFFICIAL_NODE_IMAGE=kindest/node:v1.35.8@sha256:07b2536e30b803ed61d1677a79df6115f798ce64c80f9e22f6ed45afd09323c0

# --- only for the node image built from packages ---
# The latest 3.6; kubeadm asks for 3.6.6 by name, and any 3.6 serves.
ETCD_VERSION=v3.6.7
# The one kubeadm 1.35 asks for.
COREDNS_VERSION=v1.13.1
LOCAL_PATH_VERSION=v0.0.30
# Enforces NetworkPolicies.
KUBE_ROUTER_VERSION=v2.1.0
# containerd 1.7 and systemd 257: what kind's own base image is made from.
NODE_DEBIAN_SUITE=trixie
