# The verbs of this repository. Each installs what it needs, so any of them can be the first in a fresh clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# what builds, and what the lab and the tests drive
PACKAGES := gcc clang llvm libbpf-dev libelf-dev zlib1g-dev pkg-config python3-dev python3-venv \
	iproute2 iputils-ping tcpdump ethtool nftables curl bpftool iperf3 procps util-linux ncat
SOURCES := pyproject.toml setup.py $(wildcard src/hopline/bpf/*.c src/hopline/bpf/lib/*.h) \
	$(wildcard src/hopline/kernel/*.c src/hopline/kernel/*.h) src/hopline/kernel/_build.py

.PHONY: demo test lint dist clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo   watch real packets cross a Hopline node, in network namespaces (root)'
	@echo 'make test   the whole test suite (root; what cannot run says why)'
	@echo 'make lint   ruff and mypy'
	@echo 'make dist   the wheel, in dist/'

$(VENV)/packages: Makefile
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		[ "$$(id -u)" = 0 ] || { echo "missing packages: run as root, or: apt-get install" $$missing; exit 1; }; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi
	@mkdir -p $(VENV) && touch $@

$(VENV)/installed: $(VENV)/packages $(SOURCES)
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[test]'
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/hopline lab forward

test: $(VENV)/installed
	$(BIN)/pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dist: $(VENV)/installed
	@# what an earlier build left would be shipped
	@rm -rf build dist
	$(BIN)/pip wheel -q --disable-pip-version-check --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist src/*.egg-info src/hopline/bpf/*.o src/hopline/kernel/*.so
