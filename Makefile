# One word each; every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
# A Python that has llama-cpp-python: another one where what pip builds here does not run.
LLAMA_PYTHON ?= $(BIN)/python
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header --quiet
.DEFAULT_GOAL := help
.PHONY: help demo test check train-smoke bench docs lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.base ## look at a photo, hear a question, answer it aloud (first run: sets up and assembles nano)
	@BIN=$(BIN) bash examples/demo.sh

test: $(VENV)/.dev ## lint, types and every test
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/mypy

train-smoke: $(VENV)/.dev ## all three training stages on a tiny model: falling losses, same seed, killed, two ranks
	$(BIN)/python benchmarks/train_smoke.py

bench: $(VENV)/.bench ## speed against other packages, the memory's limit, waits, sizes; writes docs/performance.md
	-$(BIN)/python benchmarks/language_vs_llamacpp.py --rounds 4 --llama-python $(LLAMA_PYTHON)
	$(BIN)/python benchmarks/peers.py --llama-python $(LLAMA_PYTHON)
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/sound_peers.py
	$(BIN)/python benchmarks/speculative.py
	$(BIN)/python benchmarks/latency.py --rounds 3
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/performance_page.py

docs: $(VENV)/.base ## the drawing and the numbers of the README files and the model card, from the reports
	$(BIN)/python docs/draw.py
	$(BIN)/python benchmarks/readme_numbers.py
	$(BIN)/python benchmarks/hardware_table.py

lock: ## pin the requirements anew (needs uv)
	$(COMPILE) --group build --output-file requirements/base.txt
	$(COMPILE) --group build --group torch-needs --extra dev --extra eval --extra heic --extra serve --extra zh \
		--constraints requirements/base.txt --overrides requirements/overrides.txt \
		--output-file requirements/dev.txt
	$(COMPILE) --group build --extra serve --constraints requirements/base.txt --output-file requirements/serve.txt
	$(COMPILE) --group torch-needs --extra bench --constraints requirements/dev.txt \
		--overrides requirements/overrides.txt --output-file requirements/bench.txt
	$(subst pyproject.toml,--group lmms --no-deps,$(COMPILE)) --constraints requirements/dev.txt \
		--output-file requirements/lmms.txt

clean: ## remove the virtual environment and everything built; the cache of nano stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a file per finished step, so that a second run starts at once and a changed pin is installed again.
$(VENV)/.made:
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.base: requirements/base.txt pyproject.toml $(VENV)/.made
	@echo "installing the pinned requirements of the package"
	@$(PIP) --require-hashes -r requirements/base.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/lmms.txt requirements/torch.txt $(VENV)/.base
	@echo "installing the pinned requirements of the tests"
	@$(PIP) --require-hashes --no-deps -r requirements/dev.txt
	@$(PIP) -r requirements/torch.txt
	@$(PIP) --require-hashes --no-deps -r requirements/lmms.txt
	@touch $@

$(VENV)/.bench: requirements/bench.txt requirements/torch.txt $(VENV)/.base
	@echo "installing what to compare with; llama.cpp is built, about 15 minutes on two cores"
	@$(PIP) --require-hashes -r requirements/bench.txt
	@$(PIP) -r requirements/torch.txt
	@touch $@
