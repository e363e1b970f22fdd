# Needs Python 3.11 or newer with pip and venv, and make. Everything else is set up in .venv on first use.

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11 python,$(shell \
  $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
# Side by side: three quarters of the time of most tests go by in links and floors that are slow on purpose.
WORKERS ?= 4
# Slow tests compute more than they wait: three side by side fill two cores. Those that measure times come last, one by one.
# Each part is a sitting of its own if you like.
CORES ?= 3
PARTS ?= most vast timed
SIDE_BY_SIDE = -n $(CORES) --dist worksteal --durations=20
SLOW_most = $(SIDE_BY_SIDE) -m "slow and not vast and not timed and not gpu"
SLOW_vast = $(SIDE_BY_SIDE) -m "slow and vast and not gpu"
SLOW_timed = --durations=0 -m "slow and timed and not gpu"
READY := .venv/.ready
READY_SLOW := .venv/.ready-slow
AUDIT := .venv/audit/bin/pip-audit
PROTO := proto/paceline/v1/verifier.proto
PROTOC = $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTO)

# One thread per process: tests run several processes on few cores, and sums come out the same everywhere.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test test-slow check fmt proto bench docs audit clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       draft here, verify in a second process, compare with the target alone"
	@echo "make test       the fast tests: no network, no accelerator"
	@echo "make test-slow  the slow ones"
	@echo "make check      ruff, mypy, import rules, generated code"
	@echo "make fmt        format and fix what can be fixed"
	@echo "make proto      generate code from proto/"
	@echo "make bench      measure Paceline beside what you would use instead"
	@echo "make audit      look the pinned versions up among known vulnerabilities; needs a network"
	@echo "make docs       build the documentation site into site/"
	@echo "make clean      remove caches and builds; .venv stays"

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Paceline needs Python 3.11 or newer; install it, or say \
	where it is: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: \
	$(PYTHON) is not Python 3.11 or newer; say where one is: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "error: this Python cannot make virtual \
	environments; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "installing into .venv (once; a few minutes on a slow line)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(READY_SLOW): $(READY)
	@echo "installing what only the slow tests need into .venv (once; some 400 MB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[slow]'
	@touch $@

demo: $(READY)
	@$(BIN)/paceline demo

test: $(READY)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=10 -m "not slow and not gpu"

test-slow: $(READY_SLOW) $(AUDIT)
	@$(if $(filter-out most vast timed,$(PARTS)),$(error PARTS has $(PARTS); say some of: most vast timed))status=0; \
	$(foreach part,$(PARTS),$(BIN)/python -m pytest -q $(SLOW_$(part)) || status=1;) \
	exit $$status

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { echo "run make fmt"; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call PROTOC,"$$fresh") && \
	  for file in verifier_pb2.py verifier_pb2.pyi verifier_pb2_grpc.py; do \
	    diff -u common/paceline/v1/$$file "$$fresh"/paceline/v1/$$file || { echo "run make proto"; exit 1; }; \
	  done && echo "generated code is up to date"

fmt: $(READY)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

proto: $(READY)
	$(call PROTOC,common)

bench: $(READY)
	@$(BIN)/paceline bench

# In an environment of its own: it needs two dozen packages that nothing else here does.
$(AUDIT): $(READY)
	@$(BIN)/python -m venv .venv/audit
	@.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	@touch $@

audit: $(AUDIT)
	@.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "open site/index.html"

clean:
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
