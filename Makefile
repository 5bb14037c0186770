# `make demo` and `make test` are all there is to know; `make help` lists the rest.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
TF_VENV := .venv-tf
COLLECTION := build/collections/ansible_collections/tf2x/serving
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_FORCE_COLOR ?= 0
export PYTHONDONTWRITEBYTECODE := 1

CONTROLLER_LOCKS := requirements/controller.txt
TEST_LOCKS := requirements/test.txt requirements/dev.txt $(addprefix roles/miniconda_prod_env/files/,requirements.txt requirements-otlp.txt)
TF_LOCKS := files/images/tf_serving_compat/requirements.txt roles/miniconda_prod_env/files/requirements.txt requirements/test.txt
# Under load: a second scenario beside them would be a part of what they measure.
MEASURED := lifecycle ha
LONG := site docker_swarm airgap el miniconda_prod_env tf_serving_stack monitoring
SCENARIOS := $(notdir $(patsubst %/,%,$(dir $(wildcard molecule/*/molecule.yml))))

.PHONY: help setup demo demo-ha demo-down test lint unit overload browser tensorflow sanity matrix images molecule docs galaxy bench bench-deploy lifecycle chaos monitoring fuzz soak clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# pip's hash-checked installs are slow to find out that there is nothing to do; a stamp a lock file is quick.
build/stamps/controller: $(CONTROLLER_LOCKS)
	@echo "setup: controller environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --require-hashes $(addprefix --requirement ,$^)
	@mkdir -p $(@D) && touch $@

build/stamps/test: build/stamps/controller $(TEST_LOCKS)
	@echo "setup: test tools in $(VENV)"
	@for lock in $(TEST_LOCKS); do $(VENV)/bin/pip install --quiet --require-hashes --requirement $$lock || exit 1; done
	@touch $@

build/stamps/tensorflow: $(TF_LOCKS) files/images/tf_serving_compat/stubs.txt
	@echo "setup: TensorFlow in $(TF_VENV)"
	@$(PYTHON) -m venv $(TF_VENV)
	@for lock in $(TF_LOCKS); do $(TF_VENV)/bin/pip install --quiet --require-hashes --requirement $$lock || exit 1; done
	@$(TF_VENV)/bin/pip install --quiet --require-hashes --no-deps --requirement files/images/tf_serving_compat/stubs.txt
	@mkdir -p $(@D) && touch $@

# Of what cannot be beside the test tools.
build/stamps/docs build/stamps/galaxy: build/stamps/%: requirements/%.txt
	@echo "setup: tools in build/$*-env"
	@$(PYTHON) -m venv build/$*-env
	@build/$*-env/bin/pip install --quiet --require-hashes --requirement $<
	@mkdir -p $(@D) && touch $@

$(COLLECTION):
	@mkdir -p $(@D) && ln -sfn ../../../.. $@

setup: build/stamps/controller $(COLLECTION) ## the controller's environment, and nothing else

demo: setup ## from nothing to a prediction through the whole stack, on this machine
	@lab/demo.sh

demo-ha: setup ## the same on a swarm of five lab hosts
	@lab/demo_ha.sh

demo-down: ## remove the demos, their images and the engine if a demo started it
	@lab/lab.sh clean

# Several at a time where none of them minds the others. What minds nothing at all has the time that the measured scenarios leave.
test: ## everything
	@$(MAKE) --jobs 3 --output-sync images build/stamps/test build/stamps/tensorflow
	@$(MAKE) unit
	@$(MAKE) overload
	@$(MAKE) --jobs 2 --output-sync browser tensorflow
	@$(MAKE) molecule BESIDE="chrt --idle 0 $(MAKE) lint sanity"
	@$(PYTHON) tools/test_summary.py

lint: build/stamps/test $(COLLECTION) ## ansible-lint, yamllint, ruff, changelog
	yamllint --strict .
	ruff check .
	ruff format --check .
	ansible-lint --offline --profile production --strict
	$(VENV)/bin/python tools/role_readmes.py --check
	antsibull-changelog lint
	tools/changelog_fragment.sh

unit: build/stamps/test $(COLLECTION) ## modules, gateway and contracts, without Docker
	mkdir -p build/reports
	pytest --numprocesses 4 --dist worksteal --junit-xml=build/reports/unit.xml tests/unit tests/fuzz

overload: build/stamps/test ## the gateway under three times its load, beside nothing else
	mkdir -p build/reports
	pytest --junit-xml=build/reports/soak.xml tests/soak

browser: build/stamps/test $(COLLECTION) ## the gateway's pages in Chromium
	mkdir -p build/reports
	tools/chromium.sh
	pytest --numprocesses 2 --dist loadfile --junit-xml=build/reports/browser.xml tests/browser

tensorflow: build/stamps/tensorflow ## what needs TensorFlow: the image, the model, the pixels
	mkdir -p build/reports
	$(TF_VENV)/bin/pytest --junit-xml=build/reports/tensorflow.xml tests/tensorflow

sanity: build/stamps/test $(COLLECTION) ## ansible-test sanity on a copy of the committed files, and once more with the oldest ansible-core
	tools/sanity.sh
	tools/core_matrix.sh oldest

matrix: build/stamps/test $(COLLECTION) ## ansible-test sanity and the syntax of everything, with every supported ansible-core
	tools/core_matrix.sh

images: ## the images that the scenarios run
	lab/lab.sh engine
	$(PYTHON) files/images/build.py tf_serving_compat haproxy prometheus node_exporter alertmanager blackbox_exporter cluster_page >build/lab/images.json
	$(PYTHON) files/images/build.py --no-archive lab_host lab_host_engine lab_host_el el_mirror >build/lab/host.json

molecule: build/stamps/test build/stamps/tensorflow $(COLLECTION) images ## every scenario on lab hosts
	rm -f build/molecule/*.result
	status=0; JOBS=3 tools/molecule.sh $(LONG) lifecycle:converge $(filter-out $(MEASURED) $(LONG),$(SCENARIOS)) || status=1; \
	  $(or $(BESIDE),true) >build/beside.log 2>&1 & beside=$$!; \
	  tools/molecule.sh lifecycle:verify ha || status=1; \
	  wait $$beside || status=1; cat build/beside.log; exit $$status

docs: setup build/stamps/docs ## the documentation as a site, warnings being errors: build/docs/html
	tools/docs.sh build/docs-env

galaxy: setup build/stamps/galaxy ## the collection's archive, and Galaxy's own checks of it: build/galaxy
	tools/galaxy_import.sh build/galaxy-env

bench: build/stamps/test build/stamps/tensorflow ## the gateway against the reference way and the floor: build/bench-gateway.txt
	$(VENV)/bin/python benchmarks/gateway.py --tf-python $(TF_VENV)/bin/python --plot docs/images/bench-gateway.svg

bench-deploy: demo ## site.yml without changes and the health check, on one host and on five: build/bench-deploy.txt
	$(VENV)/bin/python benchmarks/deploy.py one=inventory/demo
	lab/lab.sh down tf2x-demo
	lab/demo_ha.sh
	$(VENV)/bin/python benchmarks/deploy.py five=inventory/ha

lifecycle: build/stamps/test build/stamps/tensorflow $(COLLECTION) ## releases under load on two hosts: build/lifecycle.txt
	lab/lab.sh engine
	TF2X_ALL_CASES=1 tools/molecule.sh lifecycle
	@cat build/lifecycle.txt

chaos: build/stamps/test demo-ha ## what production does to a swarm, under load, on five lab hosts: build/chaos.txt
	TF2X_INVENTORY=inventory/ha TF2X_IMAGE_SOURCE=$$(lab/lab.sh image-source) $(VENV)/bin/python -m tests.e2e.chaos

monitoring: build/stamps/test build/stamps/tensorflow $(COLLECTION) ## every alert's cases, target and panel, on two hosts under load: build/monitoring.txt
	lab/lab.sh engine
	tools/molecule.sh monitoring lifecycle
	@cat build/monitoring.txt

fuzz: build/stamps/test ## thousands of damaged requests for the gateway: build/fuzz.txt
	$(VENV)/bin/python tests/fuzz/fuzz.py

soak: build/stamps/test ## overload, slow clients and ten minutes of everything: build/soak.txt
	$(VENV)/bin/python tests/soak/soak.py

clean: demo-down ## also the environments and everything that was built
	rm -rf build $(VENV) $(TF_VENV) .cache .ansible
