# What people type. Everything runs as the user who types it, needs Rust (and Go for the end-to-end tests), listens on
# loopback only and leaves nothing running.

CARGO ?= cargo

# Random schedules of `make soak`: how many, from which seed on, and how many at once (all cores when empty).
SCHEDULES ?= 1000000
SEED ?= 0
JOBS ?=

.PHONY: help build demo demo-real demo-cluster image manifests chart api-freeze test test-waiting test-working soak kube promtool helm gitops node cloudinit lint unit e2e walks real mutants evidence argocd argocd-record crds docs deny release

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## Build the phoenix binary
	$(CARGO) build --locked

demo: ## Convert the example fleet and bring it to Ready on the simulator
	examples/demo.sh

demo-real: node ## A container of the simulated Proxmox VE that is a real one: a feature and an application run in it
	examples/demo-real.sh

# Tests that wait for servers and real containers most of their time run beside those that need the processor.
WAITING := e2e real
WORKING := $(filter-out $(WAITING),$(notdir $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs))))

demo-cluster: ## A Kubernetes API server, the operator and a simulated Proxmox VE on loopback (KEEP=1 leaves a shell; needs Go)
	examples/demo-cluster.sh

test: lint kube promtool helm gitops node cloudinit ## Run every check and test; the first run builds Kubernetes and root file systems (a quarter of an hour)
	$(CARGO) test --locked --no-run
	$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target test-waiting test-working

test-waiting:
	$(CARGO) test --locked --no-fail-fast $(WAITING:%=--test %)

test-working:
	$(CARGO) test --locked --no-fail-fast --lib --bins $(WORKING:%=--test %)
	$(CARGO) test --locked --doc

soak: ## Run a million random schedules of disturbances, optimized and on all cores (SCHEDULES=, SEED= the first, JOBS=)
	PHOENIX_SCHEDULES=$(SCHEDULES) PHOENIX_SEED_FROM=$(SEED) PHOENIX_JOBS=$(JOBS) \
		$(CARGO) test --locked --profile soak --test crash -- --exact schedules::random_schedules_end_alike --nocapture

kube: ## Build Kubernetes for the end-to-end tests: an API server, and what a node that runs pods needs; if it is not there
	e2e/build-kube.sh --node

promtool: ## Build promtool, with which alert rules are tested, if it is not there
	e2e/build-promtool.sh

helm: ## Build helm for the tests of the chart, if it is not there
	e2e/build-helm.sh

gitops: ## Build the program that asks Argo CD's and Flux' own code, if it is not there
	e2e/build-gitops.sh

node: ## Prepare real containers for tests (Linux, root); says so and goes on where they cannot run
	e2e/node/prepare.sh

cloudinit: ## Unpack Debian's cloud-init for the tests that ask it, if it is not there
	e2e/install-cloud-init.sh

lint: ## Check formatting, clippy's warnings, that the list of protections fits the sources, and licences after `make deny`
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	tests/protections/run.py --check
	$(if $(wildcard target/tools/cargo-deny-*/bin/cargo-deny),$(MAKE) --no-print-directory deny DENY="licenses bans sources")

unit: ## Run the tests that need no Kubernetes
	$(CARGO) test --locked --lib --bins

e2e: ## Run the end-to-end tests alone
	$(CARGO) test --locked --test e2e

walks: ## Take 2,000 walks over specs, or PHOENIX_WALKS=n
	PHOENIX_WALKS=$${PHOENIX_WALKS:-2000} $(CARGO) test --locked --test engine walks -- --nocapture

real: node ## Run the tests in real containers alone
	$(CARGO) test --locked --test real

FOLDER ?= src/plan src/desired
mutants: ## Try small bugs in FOLDER against the tests, all or MUTANTS="--sample 300 --seed 1" (needs pip; an hour)
	python3 -m venv target/mutants/python
	target/mutants/python/bin/pip install --quiet tree-sitter==0.26.1 tree-sitter-rust==0.24.2
	target/mutants/python/bin/python tests/mutants/run.py $(MUTANTS) $(FOLDER)

evidence: ## Make docs/evidence.md from real runs (half an hour; EVIDENCE="--schedules 20000 --optimized", or fewer)
	tests/evidence/run.py $(EVIDENCE)

argocd: ## Make the values for Argo CD's Helm chart from the health checks and actions in config/argocd
	config/argocd/values.sh > examples/argocd/values.yaml

argocd-record: argocd ## Add test data to config/argocd for verdicts that the stories met for the first time
	PHOENIX_RECORD=1 $(CARGO) test --locked --test operator gitops::scenes -- --test-threads=1

crds: ## Write crds/, the schemas of admission and docs/reference from the Rust types, and what is copied from there
	$(CARGO) run --locked --quiet -- crd --output-dir crds --schemas src/admission/schemas.json --reference docs/reference
	charts/sync.sh

api-freeze: ## Note the schemas of a release, which later ones may not be stricter than
	cp src/admission/schemas.json tests/repository/api/v1alpha1.json

docs: ## Build the website of docs/ into target/book and follow its links (SOURCE_URL= where files of the repository are)
	docs/images/draw.py
	docs/build.py "$$(.ci/tool mdbook 0.5.4 --no-default-features --features search)"

deny: ## Check licences, sources and advisories of the dependencies (the last needs the network; DENY="licenses bans sources")
	"$$(.ci/tool cargo-deny 0.20.2)" --locked check $(DENY)

image: ## Build the operator's image as an OCI archive (ARCHES="amd64 arm64", IMAGE=name:tag; a quarter of an hour)
	image/build.sh

chart: ## Copy what the chart has from elsewhere, and pack it into target/chart (needs helm, or Go to build it)
	charts/sync.sh
	"$$(e2e/build-helm.sh)/helm" package charts/phoenix --destination target/chart

release: export BUILDER := oci
release: image ## Pack the files of a release into target/release-files (HOMEPAGE=, IMAGE=, ARCHES=; half an hour)
	image/release.sh

manifests: ## Write install.yaml of a release (kinds, rights and the operator, for all namespaces) and features.yaml
	mkdir -p target/manifests
	$(CARGO) run --locked --quiet -- install --features none > target/manifests/install.yaml
	for file in config/features/*.yaml; do echo ---; cat $$file; done > target/manifests/features.yaml
