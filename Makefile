# Each goal sets up what it needs, once, in .venv.
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SUPPORTED := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# Most tests wait most of their time; those of one file share clusters.
PARALLEL := -n 3 --dist loadfile

.NOTPARALLEL:
.PHONY: help demo test soak lint mutants bench bench-peers clean

help:
	@echo "make demo    run a real job on two local workers"
	@echo "make test    run the tests (ARGS='-k name' to choose)"
	@echo "make soak    run workflows under faults for half an hour (ARGS='--seconds 300' for less)"
	@echo "make lint    check style, types and layers"
	@echo "make bench   print the figures"
	@echo "make bench-peers  measure beside Dask, Ray, Prefect and others, into docs/benchmarks (half an hour)"
	@echo "make mutants break the code in many ways, and see that a test fails each time"
	@echo "make clean   remove all that make has made"

demo: $(VENV)/.demo
	@$(BIN)/egregore-dist demo

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

soak: $(VENV)/.dev
	@$(BIN)/python -m tests.soak $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

mutants: $(VENV)/.dev
	@$(BIN)/python -m tests.mutants $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/.dev
	@$(BIN)/python -m bench.peers $(ARGS)

clean:
	@rm -rf $(VENV) bench/.venvs build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
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

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing what the demo needs (once)"
	@$(INSTALL) -e '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing what development needs (once)"
	@$(INSTALL) -e '.[local,dev]'
	@touch $(VENV)/.demo $@
