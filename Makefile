# Every target is one line; what it does is in scripts/ and e2e/cluster/.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test soak mutants down bench benchcluster benchoperator images install fmt lint unit simulation integration controlplane crds chart deny e2e

help: ## This list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## From a bare machine to two running clusters with real data in them
	@scripts/demo.sh

test: ## Every test but two long ones of e2e: format, lints, unit, integration, manifests, chart, licences, end-to-end
	@scripts/test.sh

soak: ## Half an hour of kill -9, failing disks, outages on Kubernetes, random operations and simulated clusters
	@scripts/soak.sh

mutants: ## Breaks the code in each way that a test is known to catch, and sees that it does
	@scripts/mutants.sh

down: ## Deletes the kind cluster and all that `demo`, `test` and `benchcluster` started
	@e2e/cluster/down.sh

bench: ## How fast storage and coordination are, beside what they are compared with; needs no cluster
	@scripts/bench.sh

benchcluster: ## Sizes, memory and times to Ready, on a cluster
	@scripts/bench.sh cluster

benchoperator: ## 500 clusters on simulated nodes, and what they cost the operator; needs no cluster
	@scripts/bench.sh operator

images: ## Builds the container images and loads them into the cluster
	@scripts/images.sh

install: ## Installs or upgrades the operator and the S3 server of the tests
	@scripts/install.sh

fmt: ## Formats the code
	@cargo fmt --all

lint: ## Format check and clippy, warnings denied
	@scripts/test.sh fmt clippy

unit: ## Unit tests
	@scripts/test.sh unit

simulation: ## Whole clusters in one process, 20,000 seeds of trouble
	@scripts/test.sh simulation

integration: ## Integration tests against a real S3 server and Cloudflare's runtime
	@scripts/test.sh integration

controlplane: ## The operator against a real API server without machines: crash points, bad weather, a random walk
	@scripts/test.sh controlplane

crds: ## Writes the CustomResourceDefinition from the Rust types
	@cargo run --quiet --locked -p brainy-crds --bin crdgen

chart: ## Lints and renders the Helm chart
	@scripts/test.sh chart

deny: ## Checks licences, sources and banned crates
	@scripts/test.sh deny

e2e: ## End-to-end tests on kind, or on the cluster of E2E_KUBECONFIG
	@scripts/test.sh e2e
