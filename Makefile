# Two commands matter: `make lab` (a working multi-node network on this machine) and `make test`.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
# Most tests wait most of their time; each has daemons of its own.
WORKERS := $(shell n=$$((2 * $$(nproc))); echo $$((n < 8 ? n : 8)))

.DELETE_ON_ERROR:
.PHONY: help setup setup-test prepare venv cni gobgpd image lab lab-down test lint bench calico kube lock clean

help: ## these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

setup: ## Debian packages that the lab needs (skipped where present)
	@deploy/setup.sh lab

setup-test: ## those that the tests need beside them
	@deploy/setup.sh test

prepare:
	@$(MAKE) --no-print-directory --silent -j3 venv cni gobgpd

venv: $(VENV)/.ready ## the virtual environment, from requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@deploy/make-venv.sh $(VENV)
	@touch $@

cni: build/felixpy-cni ## the static CNI plugin, build/felixpy-cni

build/felixpy-cni: felixpy/cni/shim/felixpy-cni.c
	@mkdir -p build
	$(CC) -Os -static -Wall -Wextra -Werror -s -o $@ $<

gobgpd: build/gobgpd ## gobgpd v4 where Go is at hand, else Debian's v3

build/gobgpd: deploy/gobgpd.sh
	@deploy/gobgpd.sh $@

image: ## felixpy/node:dev, for containerlab (needs docker)
	@deploy/make-image.sh

lab: setup prepare ## build the three-node lab, prove it, leave it running
	@$(PY) -m tests.lab up containerlab/one-subnet.clab.yml

lab-down: ## remove every trace of the lab
	@$(if $(wildcard $(PY)),$(PY),python3) -m tests.lab down

lint: venv ## ruff, mypy --strict and the import contracts
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

test: setup-test prepare ## everything, in namespaces of its own
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests $(ARGS); code=$$?; echo $$code >build/ended; exit $$code

bench: setup-test prepare ## the curves in tests/bench
	$(PY) -m tests.bench

calico: setup-test prepare build/calico build/bird ## beside Calico's own code (needs Go; the first build takes minutes)
	$(PYTEST) tests/calico/with_*.py $(ARGS)

build/calico: $(wildcard tests/calico/program/*.go) tests/calico/program/go.mod
	cd tests/calico/program && CGO_ENABLED=0 go build -o $(CURDIR)/$@ .

build/bird: # Debian's BIRD 1.6, which cannot be installed beside bird2
	@mkdir -p build/debs && cd build/debs && apt-get -qq download bird && dpkg-deb -x bird_*.deb ../bird

kube: setup-test prepare build/kube/kube-apiserver ## beside a real kube-apiserver (needs Go, kubectl; the first build takes minutes)
	$(PYTEST) tests/kube/with_kubernetes.py $(ARGS)

build/kube/kube-apiserver: tests/kube/program/go.mod tests/kube/program/build.sh
	tests/kube/program/build.sh $(CURDIR)/build/kube

lock: ## pin every dependency anew (needs uv)
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --extra dev pyproject.toml -o requirements.lock

clean: lab-down
	rm -rf build $(VENV)
