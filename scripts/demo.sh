#!/usr/bin/env bash
# From a bare machine to two BrainyClusters with real data: the cluster, the images, the operator, and the main job.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

began=$SECONDS
scripts/prerequisites.sh
beside "compiling the Rust programs" build_programs
step "a Kubernetes cluster (the first time the tools and the node image are built: some minutes)" cluster_up
refresh
step "the Rust programs" joined "compiling the Rust programs"
step "images of operator and sidecar" scripts/images.sh
refresh
step "the operator and an S3 server" scripts/install.sh
step "the main job" "$(static_folder)/demo"
printf '\nmake demo took %d s\n' $((SECONDS - began))
