#!/usr/bin/env bash
# From a bare machine to two BrainyClusters with real data: the cluster, the images, the operator, and the main job.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

began=$SECONDS
scripts/prerequisites.sh
step "a Kubernetes cluster (the first time the tools and the node image are built: about ten minutes)" cluster_up
refresh
step "images of operator and sidecar (the first time every crate is compiled: some minutes)" scripts/images.sh
refresh
step "the operator and an S3 server" scripts/install.sh
step "the main job" "$(static_folder)/demo"
printf '\nmake demo took %d s\n' $((SECONDS - began))
