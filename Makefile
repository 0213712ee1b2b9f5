# make help lists the targets. PYTHON chooses the interpreter that makes .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
RESULTS ?= results
SUITE ?= table1
STUDY ?= smoke
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run sweep study status test test-all test-slurm lint format tables audit figures report bench publish submission prefetch wheel lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# The stamp is renewed when the lock or the metadata changes: then, and only then, is anything installed.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $$($(PYTHON) --version) is too old: give one with make PYTHON=python3.11 (or newer)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(VENV)/.installed  ## train and score the default cell (LoRA² on MiniLM, generated RTE), no network needed
	$(RUN) -m lora2_bench method=lora2 task=rte results=$(RESULTS)

sweep: $(VENV)/.installed  ## send SUITE's cells that are not done; ARGS='cluster=slurm ...' (docs/SWEEPS.md)
	$(RUN) -m lora2_bench.sweep suite=$(SUITE) results=$(RESULTS) $(ARGS)

study: $(VENV)/.installed  ## go on with STUDY (default: smoke): trials, winners, runs, findings; ARGS='--wait' (docs/TUNING.md)
	$(RUN) -m lora2_bench.tune study=$(STUDY) results=$(RESULTS) $(ARGS)

status: $(VENV)/.installed  ## where SUITE's cells are: done, running, queued, failed, interrupted, missing
	@$(RUN) -m lora2_bench.status suite=$(SUITE) results=$(RESULTS) $(ARGS)

test: $(VENV)/.installed  ## the tests but for those marked slow, some minutes (GLUE_DIR=path/to/glue adds the tests on real files)
	$(RUN) -m pytest -n auto -m 'not slow and not slurm'

test-all: $(VENV)/.installed  ## every test but those on a real Slurm: what a change has to pass
	$(RUN) -m pytest -n auto

test-slurm: $(VENV)/.installed  ## the tests on a real Slurm, which they start and stop (Debian's packages, as root; docs/SWEEPS.md)
	scripts/slurm_passed.sh test $(RUN) -m pytest -m slurm -rs tests/slurm

lint: $(VENV)/.installed  ## style, import rules, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

format: $(VENV)/.installed  ## let ruff put the code in order
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

tables: $(VENV)/.installed  ## records below RESULTS (default: results) -> RESULTS/tables
	$(RUN) -m lora2_bench.report tables --results $(RESULTS)

audit: $(VENV)/.installed  ## the paper's printed figures recomputed, without any training -> RESULTS/audit
	$(RUN) -m lora2_bench.report audit --results $(RESULTS)

figures: $(VENV)/.installed  ## cost, learning curves, learning rates and ranks, drawn as SVG and PNG -> RESULTS/figures
	$(RUN) -m lora2_bench.report figures --results $(RESULTS)

report: $(VENV)/.installed  ## all of it on one page that opens in any browser -> RESULTS/report/index.html
	$(RUN) -m lora2_bench.report report --results $(RESULTS)

bench: $(VENV)/.installed  ## seconds per step beside the frozen backbone's and PEFT's; ARGS='--sizes roberta_base' -> RESULTS/bench
	$(RUN) -m lora2_bench.bench --results $(RESULTS) $(ARGS)

publish: $(VENV)/.installed  ## mirror the finished records below RESULTS to Weights & Biases, each once (offline without a key)
	$(RUN) -m lora2_bench.publish --results $(RESULTS)

submission: $(VENV)/.installed  ## the zip for GLUE's server from stored runs: MODEL=roberta_base METHOD=lora ARGS='--seed 0'
	@$(RUN) -m lora2_bench.submission --results $(RESULTS) $(if $(MODEL),--model $(MODEL)) $(if $(METHOD),--method $(METHOD)) $(ARGS)

prefetch: $(VENV)/.installed  ## fill the hub's cache with GLUE and the paper's backbones, for a cluster without network
	$(RUN) scripts/prefetch.py

wheel: $(VENV)/.installed  ## build dist/*.whl, conf/ included
	$(RUN) -m build --wheel --no-isolation

lock: $(VENV)/.installed  ## write requirements.lock from what .venv holds now
	{ echo '# What make run and make test install: every version pinned. Written by make lock.'; \
	  $(RUN) -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:  ## remove .venv and build files; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
