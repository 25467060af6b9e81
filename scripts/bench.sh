#!/usr/bin/env bash
# Measures sizes, times and rates, and prints them beside their targets. Nothing fails on a number.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

scripts/prerequisites.sh
step "a Kubernetes cluster" cluster_up
refresh
step "images" scripts/images.sh
refresh
step "the operator and an S3 server" scripts/install.sh
step "measuring" "$(static_folder)/bench" --folder "$(static_folder)"
