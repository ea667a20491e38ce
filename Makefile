# Everything runs in .venv, which `make install` builds from the lock file in requirements/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0+cpu
# Asked only when pip's own configuration does not offer the CPU build.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
STAMP := $(VENV)/.installed

.PHONY: install serve test lint format lock clean

install: $(STAMP)

$(STAMP): requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(TORCH) \
	  || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./requirements/vllm-metadata -e .
	touch $(STAMP)

serve: install
	$(BIN)/wave-serve serve

# A file's tests stay together: they share an engine or a gateway.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs uv. Leaves out what requirements/README.md says.
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet \
  --override requirements/overrides.txt $(foreach p,torch torchvision torchaudio torchcodec,--no-emit-package $(p))
lock:
	uv pip compile pyproject.toml requirements/cpu.in --extra cpu --extra train --extra dev $(LOCK_OPTIONS) \
	  --output-file requirements/cpu.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .import_linter_cache .mypy_cache .ruff_cache .pytest_cache
