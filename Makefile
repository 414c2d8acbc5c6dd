# Each target creates the virtual environment that it needs, and keeps it until pyproject.toml or
# constraints.txt changes.
PYTHON ?= python3
SERVE := .venv/serve
DEV := .venv/dev
GPU := .venv/gpu
AUDIT := .venv/audit
DATA ?= data
RUNS ?= runs
SEEDS ?= 0

.PHONY: serve test test-gpu check weights-gpu bench sbom audit manifests format clean

serve: $(SERVE)/.installed  ## serve the shipped weights on VT_HOST:VT_PORT (127.0.0.1:8000)
	@exec $(SERVE)/bin/vt-serve

test: $(DEV)/.installed $(SERVE)/.installed  ## run all tests, in up to four processes
	$(DEV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-gpu: $(GPU)/.installed  ## run the tests that need a GPU, on ONNX Runtime with CUDA
	$(GPU)/bin/pytest -m gpu

check: $(DEV)/.installed  ## check lint, formatting and types
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy

weights-gpu: $(GPU)/.installed  ## train the default models on a GPU, from DATA into RUNS; again to resume
	BASELINES=$(BASELINES) PATH="$(CURDIR)/$(GPU)/bin:$$PATH" model_export/training/default_weights.sh $(DATA) $(RUNS) $(SEEDS)

bench: $(DEV)/.installed  ## compare the service with the machine's ceiling, mosec and a plain server; about ten minutes on an idle machine
	$(DEV)/bin/python -m tests.benchmarks.serve --json bench.json

sbom: $(DEV)/.installed $(SERVE)/.installed  ## write the bill of materials of the serving environment: sbom.cdx.json (CycloneDX)
	.ci/sbom $(DEV)/bin/cyclonedx-py $(SERVE)/bin/python sbom.cdx.json

audit: $(AUDIT)/.installed $(SERVE)/.installed  ## report known vulnerabilities of the serving environment; needs the network
	$(AUDIT)/bin/pip-audit --skip-editable --path "$$($(SERVE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

manifests:  ## generate docker/prometheus/prometheus-rule.yaml for Kubernetes from rules.yml
	$(PYTHON) docker/prometheus_rule.py > docker/prometheus/prometheus-rule.yaml

format: $(DEV)/.installed  ## format, and fix what can be fixed automatically
	$(DEV)/bin/ruff check --fix
	$(DEV)/bin/ruff format

clean:  ## remove the virtual environments and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(SERVE)/.installed: EXTRAS := cpu
$(DEV)/.installed: EXTRAS := cpu,export,dev
$(GPU)/.installed: EXTRAS := gpu,export,dev
$(AUDIT)/.installed: EXTRAS := audit
.venv/%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv/$*
	.venv/$*/bin/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
