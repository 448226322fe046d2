# Each goal sets up what it needs, once, in .venv.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The lock files name everything: pip has nothing to choose.
INSTALL := $(PIP) --no-deps --require-hashes
EDITABLE := $(PIP) --no-deps --no-build-isolation --editable .
SUPPORTED := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# Most tests wait most of their time; those of one file share clusters.
PARALLEL := -n 4 --dist loadfile
# Where pyenv keeps the interpreters that are not on the PATH.
PYENV := $(shell ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[2-9]*/bin 2>/dev/null | tr '\n' ':')

# The hundreds of processes that tests start would each compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: help demo test test-versions test-all soak fuzz lint audit sbom pins mutants bench bench-peers clean

help:
	@echo "make demo           run a real job on two local workers"
	@echo "make test           run the tests (ARGS='-k name' to choose)"
	@echo "make test-versions  run the unit tests on the oldest dependencies and on each newer Python that is installed"
	@echo "make test-all       run what make test leaves out, ten minutes a part (ARGS=--help lists the parts)"
	@echo "make test-torch     run the tests of PyTorch's DataLoader, in an environment of their own"
	@echo "make soak           run workflows under faults for half an hour (ARGS='--seconds 300' for less)"
	@echo "make fuzz           fuzz every decoder for a minute (ARGS='--seconds 3600' for more)"
	@echo "make mutants        break the code in many ways, and see that a test fails each time (hours; ARGS='--seconds 600')"
	@echo "make lint           check style, types, layers, and for known security faults"
	@echo "make audit          look the pinned dependencies up in the database of known vulnerabilities"
	@echo "make sbom           write the software bill of materials of a worker, sbom.json (CycloneDX)"
	@echo "make pins           pin the versions and hashes of dependencies (ARGS=--upgrade for the newest)"
	@echo "make bench          print the figures"
	@echo "make bench-peers    measure beside Dask, Ray, Prefect and others, into docs/benchmarks (half an hour)"
	@echo "make clean          remove all that make has made"

demo: $(VENV)/.demo
	@$(BIN)/egregore-dist demo

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-versions: $(VENV)/.dev
	@PATH="$(CURDIR)/$(BIN):$$PATH:$(PYENV)" tox run $(ARGS)

test-all: $(VENV)/.dev
	@$(BIN)/python -m tests.all $(ARGS)

# PyTorch is no dependency: its tests have an environment of their own.
TORCH := .tox/torch
.PHONY: test-torch
test-torch:
	@$(MAKE) --no-print-directory VENV=$(TORCH) $(TORCH)/.torch
	@$(TORCH)/bin/python -m pytest tests/pytorch/dataloader.py $(ARGS)

$(VENV)/.torch: Makefile $(VENV)/.dev
	@$(PIP) torch==2.13.0 numpy==2.4.6
	@touch $@

soak: $(VENV)/.dev
	@$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(VENV)/.dev
	@$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/bandit --quiet --recursive --severity-level medium egregore_dist worker
	@$(MAKE) --no-print-directory audit

# An index without the database, or no network, is no fault of the code.
audit: $(VENV)/.dev
	@result=$$($(BIN)/pip-audit --progress-spinner off --require-hashes --disable-pip -r constraints.txt 2>&1) || \
		case "$$result" in \
			*"known vulnerabilit"*) echo "$$result"; exit 1 ;; \
			*) echo "make: the database of known vulnerabilities cannot be reached" >&2; exit 0 ;; \
		esac; \
	case "$$result" in \
		*"could not be audited"*) echo "make: the index has no data of known vulnerabilities for some packages" >&2 ;; \
	esac

sbom: $(VENV)/.dev
	@$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements constraints-worker.txt \
		--pyproject pyproject.toml --output-file sbom.json

mutants: $(VENV)/.dev
	@$(BIN)/python -m tests.mutants $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/.dev
	@$(BIN)/python -m bench.peers $(ARGS)

# Each file holds versions and hashes alone: of all that is developed with, of the demo, and of a worker.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(ARGS)
PINNED := --constraint constraints.txt
pins: $(VENV)/.dev
	@$(COMPILE) pyproject.toml deploy/build.in --extra dev --output-file constraints.txt
	@$(COMPILE) pyproject.toml deploy/build.in --extra local $(PINNED) --output-file constraints-local.txt
	@$(COMPILE) pyproject.toml $(PINNED) --output-file constraints-worker.txt
	@$(COMPILE) deploy/build.in $(PINNED) --output-file constraints-build.txt

clean:
	@rm -rf $(VENV) bench/.venvs build dist sbom.json .tox .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@if ! { $(BIN)/python -c '$(SUPPORTED)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
		found=; for python in python3.13 python3.12 python3.11 python3; do \
			if "$$python" -c '$(SUPPORTED)' >/dev/null 2>&1; then found="$$python"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "make: no Python 3.11 or newer with the venv module was found: install one" \
				"(on Debian or Ubuntu: apt install python3 python3-venv) and try again" >&2; \
			exit 1; \
		fi; \
		echo "Setting up $(VENV) with $$found"; \
		"$$found" -m venv $(VENV) || exit 1; \
	fi
	@touch $@

$(VENV)/.demo: pyproject.toml constraints-local.txt | $(VENV)/.created
	@echo "Installing what the demo needs (once)"
	@$(INSTALL) --requirement constraints-local.txt
	@$(EDITABLE)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing what development needs (once)"
	@$(INSTALL) --requirement constraints.txt
	@$(EDITABLE)
	@touch $(VENV)/.demo $@
