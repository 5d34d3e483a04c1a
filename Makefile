# Every target sets itself up on a fresh machine: Linux, git, make, Python >= 3.11.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -P -m
export PYTHONPATH := $(CURDIR)
# With this variable, which some images set, each process of a test would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
# KUBERNETES=1.x.y picks another control plane; its default is in tools/local_cluster.
.DEFAULT_GOAL := help
# pytest-xdist: of tests/unit and tests/chart any worker takes any test, and idle ones take over what is left. Some of
# these tests wait, so there are more workers than cores.
PARALLEL := -n $(shell echo $$(( $$(nproc) * 2 ))) --dist worksteal
# Of the other suites a worker has one module at a time, and in tests/cluster a control plane for one after another. These
# tests wait more than they compute; the slowest modules come first (their conftest.py). .ci/run sets CLUSTER_WORKERS.
PARALLEL_NODE := -n $(shell nproc) --dist loadfile
CLUSTER_WORKERS ?= $(shell echo $$(( $$(nproc) * 2 )))
PARALLEL_CLUSTER = -n $(CLUSTER_WORKERS) --dist loadfile --no-loadscope-reorder
# Each of the two control planes of tests/hostile has a worker of its own.
PARALLEL_HOSTILE := -n 2 --dist loadscope
# Tracing makes these four times as long. The first bounds times; tests/unit/crd_upgrade reads YAML, too. The second
# runs 2,000 controllers, through code that their own tests reach; it has the mark `long`.
UNCOVERED := tests/unit/runtime/test_bounded_yaml.py tests/unit/cli/capacity/test_fleet_start.py
# `make test-all` empties this.
SHORT := -m "not long"
# $(call stage,name,command): run it, and print how long it took.
stage = @started=$$(date +%s); printf '\n== %s\n' '$(1)'; $(2) && printf '== %s: %d s\n' '$(1)' $$(( $$(date +%s) - started ))

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

$(VENV)/ready: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "akv-secret-store needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV) (about a minute, once) ..." >&2
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

setup: $(VENV)/ready ## the Python environment
	@:

assets: $(VENV)/ready ## etcd, kube-apiserver, kube-controller-manager, kubectl, ct: found, downloaded or built once (about 15 min)
	@$(RUN) tools.local_cluster assets

assets-all: assets ## … and the programs of every suite; building missing ones takes another half hour
	@$(RUN) tools.local_cluster assets --node --tool prometheus --tool kstatus --tool argocd-sync --tool source-controller --tool kustomize-controller --tool cosign --tool helm \
	  --tool registry --tool cert-manager --tool trust-manager --tool otelcol

demo: assets ## sync one secret on a real API server through a rotation and an outage (options: DEMO="--keep")
	@$(RUN) tools.demonstration.demo $(DEMO)

check: setup ## what to run before a commit, in 3 minutes: lint, tests without a cluster
	$(call stage,lint,$(RUN) tools.lint)
ifdef COVERAGE
	$(call stage,unit,$(MAKE) --no-print-directory coverage)
	$(call stage,chart and what coverage slows down,$(RUN) pytest $(PARALLEL) --durations=10 $(UNCOVERED) tests/chart)
else
	$(call stage,unit and chart,$(RUN) pytest $(PARALLEL) --durations=10 $(SHORT) tests/unit tests/chart)
endif

coverage: setup ## the branches of controller/ that tests/unit alone reach
	@$(RUN) pytest $(PARALLEL) --durations=10 --cov --cov-report=term $(UNCOVERED:%=--ignore=%) tests/unit

test: assets ## unit, chart and cluster, but no test that takes minutes by nature (options: TEST="-k name", KUBERNETES=1.x.y)
	@$(RUN) tools.local_cluster assets --tool prometheus --tool kstatus --tool argocd-sync
ifdef TEST
	$(RUN) pytest $(TEST)
else
	$(call stage,unit and chart,$(RUN) pytest $(PARALLEL) --durations=10 $(SHORT) tests/unit tests/chart)
	$(call stage,cluster,$(RUN) pytest $(PARALLEL_CLUSTER) --durations=10 $(SHORT) tests/cluster)
endif

test-cluster: assets ## the cluster tests, with those that take minutes by nature (options: TEST="-k name")
	@$(RUN) tools.local_cluster assets --tool prometheus --tool kstatus --tool argocd-sync --tool source-controller --tool kustomize-controller
	$(RUN) pytest $(PARALLEL_CLUSTER) --durations=10 tests/cluster $(TEST)

test-node: assets ## what needs a node, as root: the image in a pod; install, upgrade, rollback and uninstall by helm (options: TEST="-k name")
	@$(RUN) tools.local_cluster assets --node --tool cosign --tool helm --tool registry
ifdef TEST
	$(RUN) pytest tests/node $(TEST)
else
	$(RUN) pytest $(PARALLEL_NODE) --durations=10 --ignore=tests/node/test_node.py tests/node
	$(RUN) pytest tests/node/test_node.py  # it searches the whole machine for what a node leaves, so it runs alone
endif

test-logs: assets ## logs by OTLP, with cert-manager, trust-manager and a collector, built once (options: TEST="-k name")
	@$(RUN) tools.local_cluster assets --tool cert-manager --tool trust-manager --tool otelcol
	$(RUN) pytest tests/logs $(TEST)

test-hostile: assets ## attackers against the chart's release on two control planes (options: HOSTILE_SEED=8, TEST="-k thief")
	$(RUN) pytest $(PARALLEL_HOSTILE) --durations=10 tests/hostile $(TEST)

test-all: ## every test there is, as root: check, test-cluster, test-hostile, test-node, test-logs, a short fuzz
	$(call stage,check,$(MAKE) check SHORT=)
	$(call stage,cluster,$(MAKE) test-cluster)
	$(call stage,hostile,$(MAKE) test-hostile)
	$(call stage,node,$(MAKE) test-node)
	$(call stage,logs,$(MAKE) test-logs)
	$(call stage,fuzz,$(MAKE) fuzz FUZZ='--seconds 20')

image: $(VENV)/ready ## the images as build/*.tar, by buildah as root (options: BASE=image, BASE=debian)
	@$(RUN) tools.images.image $(if $(BASE),--base $(BASE))

release: $(VENV)/ready ## what the workflow release.yml publishes (TAG=vVERSION IMAGES="FILE ...")
	@$(RUN) tools.release.package --with-tools --tag $(TAG) --output build/release $(addprefix --image ,$(IMAGES))
	@$(RUN) tools.release.publish build/release
	@$(RUN) tools.release.verify build/release

scan: $(VENV)/ready ## known vulnerabilities of the lock files and of the images in build/, asked of osv.dev
	@$(RUN) tools.release.vulnerabilities $(addprefix --image ,$(wildcard build/*.tar))

release-rehearsal: assets ## what the workflow release.yml does, as root: build, publish to a local registry, sign, verify, install
	@$(RUN) tools.local_cluster assets --node --tool cosign --tool registry
	@$(RUN) tools.release.rehearsal $(REHEARSAL)

bench: assets ## seconds, memory, CPU and calls, in about 20 min, into docs/figures.md (options: BENCH="--growth")
	@$(RUN) tests.bench $(BENCH)

soak: assets ## run rotations, faults and restarts for an hour on a real API server (options: SOAK="--seconds 600 --count 300 --seed 8")
	@$(RUN) tests.soak $(SOAK)

$(VENV)/fuzz: requirements/fuzz.txt $(VENV)/ready
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/fuzz.txt
	@touch $@

fuzz: $(VENV)/fuzz ## search ten minutes for inputs that break the parsing of certificates (options: FUZZ="--seconds 20")
	@$(RUN) tests.fuzz $(FUZZ)

mutate: $(VENV)/ready ## changes of controller/ that no unit test notices (options: MUTATE="--module runtime.rate_limiter --seed 8 --sample 50")
	@$(RUN) tests.mutation $(MUTATE)

defences: setup ## remove each defence of tests/mutation/defences.toml, and see its test fail (options: DEFENCES="--only TEXT")
	@$(RUN) tests.mutation.defences $(DEFENCES)

lint: setup ## ruff, mypy, import-linter, yamllint, helm lint, ct lint, actionlint, zizmor, generated files
	@$(RUN) tools.lint

generate: $(VENV)/ready ## CRDs, RBAC, policies, values, schema and docs from the types
	@$(RUN) tools.codegen.generate

lock: $(VENV)/ready ## requirements/*.txt from requirements/*.in, with hashes and without addresses
	@cd requirements && for name in controller dev fuzz; do ../$(VENV)/bin/pip-compile --quiet --generate-hashes --strip-extras \
	  --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate \
	  -o $$name.txt $$name.in; done

.PHONY: help setup assets assets-all demo check coverage test test-cluster test-hostile test-node test-logs test-all image release scan release-rehearsal bench soak fuzz mutate defences lint generate lock
