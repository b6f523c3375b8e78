# A fresh machine needs Python 3.10 to 3.14 with pip and venv, and make. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# These files are written last, so that an interrupted install is repeated.
STAMP := $(VENV)/installed
DEV_STAMP := $(VENV)/installed-dev
CONSTRAINTS := requirements/constraints.txt
# The tests that `make test` runs, and requirements that take the place of OpenMMLab's libraries
TESTS := tests
FORKS :=
# --only-binary: a package without a wheel for this Python fails at once, instead of asking for a compiler.
# --no-compile: Python compiles a module to byte code when it is first imported. The `unexport` below makes it keep the
# byte code, even if the environment says otherwise.
PIP_INSTALL := $(BIN)/python -m pip install --no-compile --only-binary :all: -c $(CONSTRAINTS)

unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart quickstart-detection quickstart-segmentation test test-oldest test-forks audit lint format clean \
	dist docs docs-serve mamba-recipe

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

quickstart: $(STAMP)  ## install, train DefMamba on handwritten digits, test it, draw its predictions
	$(BIN)/python -u tools/quickstart.py classification

quickstart-detection: $(STAMP)  ## the same for detection (Mask R-CNN)
	$(BIN)/python -u tools/quickstart.py detection

quickstart-segmentation: $(STAMP)  ## the same for segmentation (UperNet)
	$(BIN)/python -u tools/quickstart.py segmentation

test: $(DEV_STAMP)  ## install and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

test-oldest:  ## run the tests with the oldest supported versions, in a separate environment
	$(MAKE) test VENV=.venv/oldest CONSTRAINTS=requirements/oldest.txt

test-forks:  ## run the tests of networks and mends with the living forks of OpenMMLab's libraries, likewise
	$(MAKE) test VENV=.venv/forks FORKS=requirements/forks.txt \
	TESTS='tests/test_models tests/test_compat tests/test_detection tests/test_segmentation'

audit: $(STAMP)  ## check that packages fit each other and, online, that no pinned version is known to be vulnerable
	$(BIN)/python -m pip check
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install -q pip-audit
	@# --strict: without it, packages that could not be looked up count as safe. Offline, these are all packages.
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements/constraints.txt

lint: $(DEV_STAMP)  ## check style and format with ruff
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(DEV_STAMP)  ## fix style and format where ruff can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

dist:  ## build the source archive and, from it, the wheel into dist/, and check both
	@git status --porcelain 2>/dev/null | sed 's/^/not committed: /'
	$(PYTHON) -m venv .venv/dist
	.venv/dist/bin/python -m pip install -q --only-binary :all: -c requirements/dist.txt build twine
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/requirements/dist.txt .venv/dist/bin/python -m build
	.venv/dist/bin/python -m twine check --strict dist/*
	@test "$$(uname -s)" != Linux || ls dist/*-manylinux_*.whl >/dev/null || \
	{ echo 'The wheel has no C kernels: see the warning of the build above'; exit 1; }
	@echo; cd dist && sha256sum *

docs: $(DEV_STAMP)  ## build the documentation as a site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(DEV_STAMP)  ## serve the documentation on this machine, and build it again when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --strict

clean:  ## remove the environment and caches; work_dirs stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Wheels are for CPython 3.12 on Linux, whatever this machine is.
gpu-wheels:  ## collect into wheels/ what benchmarks/gpu.sh needs on a machine with a GPU and no network
	rm -rf wheels
	$(PYTHON) -m pip download -q --no-deps --only-binary :all: --implementation cp --python-version 3.12 \
	--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	--platform manylinux1_x86_64 -c $(CONSTRAINTS) -d wheels -r requirements/gpu.txt
	@du -sh wheels

mamba-recipe:  ## show how to build mamba-ssm's CUDA kernels
	@sed -n '/^## The kernels of mamba-ssm/,/^## /{/^## /!p;}' docs/install.md

$(STAMP): setup.py pyproject.toml $(wildcard requirements/*.txt) $(wildcard mmdefmamba/ops/native/compile.py mmdefmamba/ops/native/csrc/*)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit("mmdefmamba needs Python 3.10 or newer, $(PYTHON) is \
	%d.%d. Name another: make PYTHON=python3.11 ..." % v[:2] if v < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -q --upgrade pip
	$(PIP_INSTALL) -e '.[openmmlab]'
	@# mmcv requires opencv-python, which needs libGL and glib. The headless build has the same modules without them.
	@$(BIN)/python -c 'import cv2' || { echo 'OpenCV cannot be imported here: installing its headless build instead'; \
	$(PIP_INSTALL) --force-reinstall --no-deps opencv-python-headless; }
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(PIP_INSTALL) -e '.[openmmlab,app,dev,docs,export,timm]'
ifneq ($(FORKS),)
	@# they have other names than the originals, so pip would keep both, one over the files of the other
	$(BIN)/python -m pip uninstall -q -y mmcv-lite mmdet mmengine mmpretrain mmsegmentation
	$(PIP_INSTALL) -r $(FORKS)
endif
	@touch $@
