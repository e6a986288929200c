# The two commands of the README: `make demo` and `make test`. Both work from a fresh clone.
PYTHON ?= python3
VENV := .venv
OUT ?= demo
PACKAGES := matching mapping localize benchmarks

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(VENV)/bin/groundloc demo --out $(OUT)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $(foreach package,$(PACKAGES),-p $(package)) -m groundloc -m groundloc_arguments -m groundloc_start

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("groundloc needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
