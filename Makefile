# Two commands for a fresh machine with Python 3.10+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
IMAGE ?=
BIN := $(VENV)/bin
# Python compiles what it imports; compiling all of torch and transformers beforehand takes most of a minute.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile
# A machine without a GPU is spared gigabytes of CUDA by TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# The packages that users import.
API := otdrg_hf otdrg_hf.modeling otdrg_hf.data otdrg_hf.labeling otdrg_hf.metrics

.PHONY: demo test test-fast test-slow bench-gpu lint style types docs demo-checkpoint clean

demo: $(VENV)/.demo
	$(BIN)/otdrg demo --output_dir demo_output $(IMAGE)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The model and the imports.
test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 tests/modeling tests/test_import.py --ignore tests/modeling/test_family_matrix.py

# With the tests of quantisation, which `make test` skips.
test-slow: $(VENV)/.dev
	$(PIP_INSTALL) --constraint constraints.txt "bitsandbytes>=0.46"
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest tests/modeling/test_quantization.py tests/docs/test_transformers_guide.py

# What docs/scale.md says of GPUs, measured again on the one there is.
bench-gpu: $(VENV)/.dev
	OTDRG_TEST_DEVICE=cuda $(BIN)/python -m pytest -n 4 -m "not slow" tests/modeling || true
	$(BIN)/python tests/benchmarks/gpu.py

lint: style types

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mlinter modeling --no-progress

types: $(VENV)/.dev
	$(BIN)/mypy

# The API reference, from docstrings: site/index.html
docs: $(VENV)/.docs
	$(BIN)/pdoc --docformat google --output-directory site $(API)

# Trains the bundled checkpoint again, from nothing: about an hour on 2 cores.
demo-checkpoint: $(VENV)/.dev
	$(BIN)/accelerate launch --config_file training/accelerate/cpu.yaml training/sft.py --config training/recipes/phantom_align.yaml
	$(BIN)/accelerate launch --config_file training/accelerate/cpu.yaml training/sft.py --config training/recipes/phantom_finetune.yaml
	$(BIN)/python -m otdrg_hf.demo.export outputs/phantom_finetune otdrg_hf/demo/checkpoint
	$(BIN)/otdrg calibrate otdrg_hf/demo/checkpoint --dataset phantom --num_studies 2000

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	$(PIP_INSTALL) --constraint constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[eval]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[all,dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo_output outputs build site *.egg-info
