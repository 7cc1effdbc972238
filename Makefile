# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist loadfile
VENV := .venv
RUN := $(VENV)/bin/python
BENCH := .venv-bench/bin/python
RESULTS := benchmarks/results
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv-demo/ready: pyproject.toml
	$(PYTHON) tests/install.py .venv-demo -e '.[testing]'
	@touch $@

$(VENV)/ready: pyproject.toml tests/requirements.txt tests/constraints.txt
	$(PYTHON) tests/install.py $(VENV) -e '.[all]' -r tests/requirements.txt -c tests/constraints.txt
	@touch $@

demo: .venv-demo/ready ## play the ways a stream can end, and show them (no key, no network)
	@.venv-demo/bin/otelstream demo

test: $(VENV)/ready ## run the tests
	$(RUN) -m pytest -m "not slow" $(PYTEST_ARGS)

demo-all: .venv-demo/ready ## every story, tools and Stop included
	@.venv-demo/bin/otelstream demo --all

pins: ## take the newest versions of all that the tests need, for every Python; `make matrix` is what runs unpinned
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet --upgrade uv
	.venv-pins/bin/uv pip compile pyproject.toml tests/requirements.txt tests/requirements-mutate.txt --extra all --universal --python-version 3.10 \
		--upgrade --quiet --no-annotate --no-emit-index-url --custom-compile-command 'make pins' -o tests/constraints.txt

generate: $(VENV)/ready ## make the rules, dashboards, runbook and tables of the docs anew
	$(VENV)/bin/otelstream slo rules -o dashboards/rules
	$(VENV)/bin/otelstream slo dashboards -o dashboards/grafana
	$(VENV)/bin/otelstream slo runbook -o dashboards
	cd tests && ../$(RUN) -m slo.scenarios
	$(RUN) docs/generate.py
	$(RUN) docs/versions.py

previews: $(VENV)/ready ## draw the dashboards from their JSON and a real Prometheus (development only)
	cd tests && ../$(RUN) -m slo.previews

live-hour: $(VENV)/ready ## an hour of real processes, a real Prometheus, and every panel against what they had counted (MINUTES=6)
	cd tests && ../$(RUN) -m slo.live_hour run ../build/live-$$(date +%s) --minutes $(or $(MINUTES),75)

e2e: $(VENV)/ready ## simulator, SDK, Prometheus, rules, Alertmanager, a webhook: the page comes, or does not
	$(RUN) -m pytest -m slow tests/slo -s

.venv-docs/ready: docs/requirements.txt
	$(PYTHON) tests/install.py .venv-docs -r docs/requirements.txt
	@touch $@

docs: .venv-docs/ready ## build the documentation site; a broken link or a page that nothing leads to fails
	.venv-docs/bin/mkdocs build --strict --site-dir build/site

.venv-recipes/ready: pyproject.toml tests/requirements.txt tests/requirements-recipes.txt tests/constraints.txt
	$(PYTHON) tests/install.py .venv-recipes -e '.[all]' -r tests/requirements.txt -r tests/requirements-recipes.txt
	@touch $@

recipes: .venv-recipes/ready ## run the recipes of the documentation in every framework
	.venv-recipes/bin/python -m pytest tests/recipes tests/hop/test_wsgi.py

browsers: .venv-recipes/ready ## press Stop, abort and close the tab in a real browser on each recipe, and write their table (needs Chromium)
	cd tests && PYTHONPATH=.:.. ../.venv-recipes/bin/python -m recipes.browsers --docs

.venv-frameworks/ready: pyproject.toml tests/frameworks/requirements.txt
	$(PYTHON) tests/install.py .venv-frameworks -e '.[testing]' -r tests/frameworks/requirements.txt
	@touch $@

frameworks: .venv-frameworks/ready ## run agent frameworks and the clouds' clients against the local provider, and write their tables (half an hour)
	cd tests && PYTHONPATH=. ../.venv-frameworks/bin/python -m frameworks.run --docs

.venv-dist/ready: tests/package/requirements.txt
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet -r tests/package/requirements.txt
	@touch $@

dist: .venv-dist/ready ## build sdist and wheel, check what is in them, use the wheel on every Python that is here
	rm -rf dist build/wheel-*
	.venv-dist/bin/python -m build --outdir dist
	.venv-dist/bin/twine check --strict dist/*
	.venv-dist/bin/python tests/package/distribution.py
	.venv-dist/bin/python tests/package/distribution.py --pythons 3.10 3.11 3.12 3.13 3.14

follow: .venv-dist/ready ## do what the FastAPI page says, from `pip install` on, with the wheel of dist/ (after `make dist`)
	$(PYTHON) tests/package/ten_minutes.py

lowest: .venv-dist/ready ## the lowest versions of all direct dependencies: resolved, installed, a stream observed (LOWEST_PYTHON=3.10)
	mkdir -p build && rm -rf build/lowest-venv
	.venv-dist/bin/uv venv --quiet --python $(or $(LOWEST_PYTHON),3.10) build/lowest-venv
	.venv-dist/bin/uv pip compile pyproject.toml --extra testing --extra otlp --resolution lowest-direct --quiet \
		--python build/lowest-venv/bin/python --no-emit-index-url --no-header -o build/lowest.txt
	.venv-dist/bin/uv pip install --quiet --python build/lowest-venv/bin/python -r build/lowest.txt -e . pytest
	build/lowest-venv/bin/python tests/package/distribution.py --smoke

notes: ## print the release notes: what the changelog says of VERSION (default: Unreleased)
	@$(PYTHON) tests/package/notes.py $(VERSION)

sbom: .venv-dist/ready ## write what the wheel brings along as a CycloneDX SBOM (after `make dist`)
	.venv-dist/bin/cyclonedx-py environment build/wheel-3.11/bin/python --output-reproducible -o dist/sbom.cdx.json

audit: .venv-dist/ready ## look every pinned version up in the advisories (needs an index that has them)
	.venv-dist/bin/pip-audit --strict --no-deps --disable-pip -r tests/constraints.txt

collector: ## build the Collector, or take the one built before (needs Go; ten minutes of CPU time the first time)
	collector/build.sh

e2e-collector: $(VENV)/ready collector ## 5 000 streams down the whole road, and the long faults
	$(RUN) -m pytest -m slow tests/collector -s

probes: $(VENV)/ready ## the probe on every planted proxy, nginx and haproxy too where they are
	$(RUN) -m pytest -m slow tests/probe

texture: $(VENV)/ready ## the same model compared with itself, and with planted changes: how often which is found (two minutes)
	$(RUN) -m pytest -m slow tests/texture -s

.venv-gateways/ready: tests/gateways/requirements.txt
	$(PYTHON) -m venv .venv-gateways
	.venv-gateways/bin/python -m pip install --quiet -r tests/gateways/requirements.txt
	@touch $@

# By way of the wheel: a later one asks for a package that not every index has.
.venv-litellm/ready:
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python -m pip download --quiet --no-deps --dest build/gateways litellm==1.108.2
	.venv-litellm/bin/python -m pip install --quiet "$$(ls build/gateways/litellm-1.108.2-*.whl)[proxy]"
	@touch $@

build/gateways/node/ready:
	mkdir -p build/gateways/node
	cd build/gateways/node && npm install --silent --no-save --prefix . @portkey-ai/gateway@1.15.2 http-proxy@1.18.1
	@touch $@

gateways: $(VENV)/ready .venv-gateways/ready .venv-litellm/ready build/gateways/node/ready ## probe real gateways, those of apt-get where they are, and write their table (an hour)
	cd tests && PYTHONPATH=.:.. ../$(RUN) -m gateways.run --docs

.venv-engine/ready:
	$(PYTHON) -m venv .venv-engine
	.venv-engine/bin/python -m pip install --quiet 'llama-cpp-python[server]' gguf
	@touch $@

e2e-engine: $(VENV)/ready .venv-engine/ready ## a real inference engine, killed and starved (builds it: a quarter of an hour)
	ENGINE_PYTHON=$(CURDIR)/.venv-engine/bin/python $(RUN) -m pytest -m slow tests/engine -s

.venv-bench/ready: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH) -m pip install --quiet -e '.[testing]' -r benchmarks/requirements.txt
	@touch $@

bench: .venv-bench/ready ## what a chunk and a stream cost, beside the bare SDK and its other watchers (half an hour)
	mkdir -p $(RESULTS)
	$(BENCH) benchmarks/hot_path.py --json $(RESULTS)/hot_path.json
	$(BENCH) benchmarks/cadence.py
	$(BENCH) benchmarks/per_stream.py --json $(RESULTS)/per_stream.json
	$(BENCH) benchmarks/streams.py --cases text:5 --json $(RESULTS)/streams.json --picture docs/bench.png
	$(BENCH) benchmarks/streams.py --cases text:20,text:85,tool:5,thinking:5 --subjects 'floor;native;otelstream' --rounds 3 \
		--json $(RESULTS)/shapes.json
	$(BENCH) benchmarks/scale.py --json $(RESULTS)/scale.json
	$(BENCH) benchmarks/report.py

.venv-bench-openai/ready: pyproject.toml benchmarks/requirements-openai.txt
	$(PYTHON) -m venv .venv-bench-openai
	.venv-bench-openai/bin/python -m pip install --quiet -e '.[testing]' -r benchmarks/requirements-openai.txt
	@touch $@

bench-openai: .venv-bench-openai/ready ## the same for a chunk of a chat completion (ten minutes)
	.venv-bench-openai/bin/python benchmarks/hot_path.py --api chat
	.venv-bench-openai/bin/python benchmarks/hot_path.py --api responses
	.venv-bench-openai/bin/python benchmarks/streams.py --sdk openai --cases text:5 --json $(RESULTS)/openai.json

matrix: $(VENV)/ready ## every way of reading and ending, on the versions of an SDK (SDK=openai, VERSIONS='1.109.1 newest')
	$(RUN) tests/matrix/versions.py --sdk $(or $(SDK),anthropic) $(if $(VERSIONS),--versions $(VERSIONS))

table: $(VENV)/ready ## write and print how streams end on the installed version; what was not run, and why
	$(RUN) -m tests.matrix --docs
	$(RUN) -m tests.matrix

foreign: $(VENV)/ready ## the SDKs' own tests, with otelstream on and off
	$(RUN) tests/foreign/run.py
	$(RUN) tests/foreign/run.py --sdk openai
	$(RUN) tests/foreign/run.py --sdk botocore

companions: $(VENV)/ready ## beside each other instrumentation of the SDKs, in both orders (half an hour; ARGS='-k openai')
	$(RUN) -m pytest -m slow tests/test_companions.py $(ARGS)

soak: $(VENV)/ready ## an hour in one process: threads, tasks, signals, collections
	$(RUN) tests/soak.py

fuzz: $(VENV)/ready ## a million broken streams of each SDK
	$(RUN) tests/fuzz.py --cases 1000000
	$(RUN) tests/fuzz.py --cases 1000000 --sdk openai
	$(RUN) tests/fuzz.py --cases 1000000 --sdk google-genai

.venv-mutate/ready: pyproject.toml tests/requirements.txt tests/requirements-mutate.txt tests/constraints.txt
	$(PYTHON) -m venv .venv-mutate
	.venv-mutate/bin/python -m pip install --quiet -e '.[all]' -r tests/requirements.txt -r tests/requirements-mutate.txt \
		-c tests/constraints.txt
	@touch $@

mutate: .venv-mutate/ready ## change the code of [tool.mutmut]'s modules bit by bit: which changes does no test see? (hours; MUTANTS='names')
	rm -rf mutants
	.venv-mutate/bin/mutmut run $(MUTANTS)
	.venv-mutate/bin/mutmut results
	@.venv-mutate/bin/mutmut export-cicd-stats >/dev/null
	@.venv-mutate/bin/python -c "import json; found = json.load(open('mutants/mutmut-cicd-stats.json')); \
		seen = found['killed'] + found['timeout'] + found['segfault']; \
		print(f\"{seen} of {found['total']} changes were seen: {seen / found['total']:.1%}\")"

lint: $(VENV)/ready ## lint and format check
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: $(VENV)/ready ## type check
	$(RUN) -m mypy

fmt: $(VENV)/ready ## format and fix what can be fixed
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

clean: ## remove what the other targets made
	rm -rf .venv .venv-* .tools build dist mutants otelstream.html

.PHONY: help browsers dist follow lowest notes sbom audit docs recipes frameworks demo demo-all generate previews live-hour e2e collector e2e-collector e2e-engine probes texture gateways bench bench-openai matrix table foreign companions fuzz soak mutate test pins lint types fmt clean
