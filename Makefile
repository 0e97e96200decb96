# The verbs of this repository. Each installs what it needs, so any of them can be the first in a fresh clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# what builds, and what the lab and the tests drive
PACKAGES := gcc clang llvm libbpf-dev libelf-dev zlib1g-dev pkg-config python3-dev python3-venv \
	iproute2 iputils-ping tcpdump ethtool nftables curl bpftool iperf3 procps util-linux ncat xdp-tools
# what boots other kernels in VMs
KERNEL_PACKAGES := qemu-system-x86 kmod udev
SOURCES := pyproject.toml setup.py $(wildcard src/hopline/bpf/*.c src/hopline/bpf/lib/*.h) \
	$(wildcard src/hopline/kernel/*.c src/hopline/kernel/*.h) src/hopline/kernel/_build.py

.PHONY: demo test test-slow test-kernels bench bench-quick lint dist clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo   watch real packets cross a Hopline node, in network namespaces (root)'
	@echo 'make test   the test suite (root; what cannot run says why)'
	@echo 'make test-slow  the tests that take minutes: a million packets, a million mutated frames'
	@echo 'make test-kernels  the tests that need a kernel, in VMs on three Debian kernels (hours)'
	@echo 'make bench  every figure of docs/performance.md, into that page (root; some thirty minutes)'
	@echo 'make bench-quick  the same, coarsely, printed only (root; some four minutes)'
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
	@$(BIN)/hopline lab balance

# half of the time is spent waiting: two at a time, each file by one of them; where tests have one name, by themselves
ALIKE := tests/lab/test_api_contract.py

test: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile --ignore $(ALIKE)
	$(BIN)/pytest $(ALIKE)

test-slow: $(VENV)/installed
	@# the fuzzer has no wheel for every Python; without it its tests are skipped and say so
	-$(BIN)/pip install -q --disable-pip-version-check --only-binary atheris -e '.[fuzz]'
	$(BIN)/pytest -m slow --timeout 3600

# the kernels come from Debian's archive, and stay in /boot, /lib/modules and /var/cache/hopline-kernels
$(VENV)/kernels: $(VENV)/installed
	@[ "$$(id -u)" = 0 ] || { echo "kernels are unpacked to /boot and /lib/modules: run as root"; exit 1; }
	@apt-get update -qq
	@DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(KERNEL_PACKAGES)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[kernels]'
	@touch $@

test-kernels: $(VENV)/kernels
	$(BIN)/python tests/kernels/run.py

$(VENV)/bench: $(VENV)/installed
	$(BIN)/pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@

FOUND := build/bench

bench: $(VENV)/bench
	@rm -rf $(FOUND)
	$(BIN)/python bench/forward.py --json $(FOUND)/forward.json
	$(BIN)/python bench/balance.py --json $(FOUND)/balance.json
	$(BIN)/python bench/balance_control.py --json $(FOUND)/balance_control.json
	$(BIN)/python bench/freshness.py --json $(FOUND)/freshness.json
	$(BIN)/python bench/control.py --json $(FOUND)/control.json
	$(BIN)/python bench/program.py --json $(FOUND)/program.json
	-$(BIN)/python bench/program_maps.py --json $(FOUND)/program_maps.json
	@$(BIN)/python bench/report.py $(FOUND) --write docs/performance.md --plots docs/performance

bench-quick: $(VENV)/bench
	@rm -rf $(FOUND)
	$(BIN)/python bench/forward.py --quick --json $(FOUND)/forward.json
	$(BIN)/python bench/balance.py --quick --json $(FOUND)/balance.json
	$(BIN)/python bench/balance_control.py --quick --json $(FOUND)/balance_control.json
	$(BIN)/python bench/freshness.py --quick --json $(FOUND)/freshness.json
	$(BIN)/python bench/control.py --quick --json $(FOUND)/control.json
	$(BIN)/python bench/program.py --quick --json $(FOUND)/program.json
	@$(BIN)/python bench/report.py $(FOUND)

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
