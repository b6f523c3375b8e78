# A fresh machine needs Python 3.10 to 3.14 with pip and venv, and make. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Touched last, so that an install that was cut short is taken up again.
STAMP := $(VENV)/installed
DEV_STAMP := $(VENV)/installed-dev
CONSTRAINTS := requirements/constraints.txt
# Only wheels: what has none for this Python fails at once instead of asking for a compiler. No byte code: the first
# import makes what it needs of it, and keeps it even where the environment says not to.
PIP_INSTALL := $(BIN)/python -m pip install --no-compile --only-binary :all: -c $(CONSTRAINTS)

unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart quickstart-detection quickstart-segmentation test test-oldest audit lint format clean docs \
	mamba-recipe

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

quickstart: $(STAMP)  ## install, train DefMamba on handwritten digits, test it, draw what it learned
	$(BIN)/python -u tools/quickstart.py classification

quickstart-detection: $(STAMP)  ## the same for detection
	$(BIN)/python -u tools/quickstart.py detection

quickstart-segmentation: $(STAMP)  ## the same for segmentation
	$(BIN)/python -u tools/quickstart.py segmentation

test: $(DEV_STAMP)  ## install and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-oldest:  ## the same with the oldest versions that are supported, in an environment of their own
	$(MAKE) test VENV=.venv/oldest CONSTRAINTS=requirements/oldest.txt

audit: $(STAMP)  ## do the installed packages fit each other; and, online, has a pinned version a known vulnerability
	$(BIN)/python -m pip check
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install -q pip-audit
	@# strict: what the database was not asked about would count as safe, offline that is everything
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements/constraints.txt

lint: $(DEV_STAMP)  ## check style and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(DEV_STAMP)  ## mend style and format where ruff can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(DEV_STAMP)  ## build the documentation as a site, into site/
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove the environment and caches; keeps work_dirs
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

mamba-recipe:  ## tell how to build mamba-ssm's CUDA kernels
	@sed -n '/^## The kernels of mamba-ssm/,/^## /{/^## /!p;}' docs/install.md

$(STAMP): setup.py pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit("mmdefmamba needs Python 3.10 or newer, $(PYTHON) is \
	%d.%d. Name another: make PYTHON=python3.11 ..." % v[:2] if v < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -q --upgrade pip
	$(PIP_INSTALL) -r requirements/openmmlab.txt -e .
	@# opencv-python, which mmcv asks for, needs libGL and glib; its headless twin has the same files without that need.
	@$(BIN)/python -c 'import cv2' || { echo 'OpenCV does not load here: taking its headless build'; \
	$(PIP_INSTALL) --force-reinstall --no-deps opencv-python-headless; }
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(PIP_INSTALL) -e '.[app,dev,docs]'
	@touch $@
