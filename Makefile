# `make demo` runs the whole pipeline, `make story` the whole story with hospital systems, `make test` all checks.
# Each installs requirements/development.lock into .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
STUDIES ?=
# Real training images of the shipped bundle; DATA= trains on phantoms only.
DATA    ?= manifest:../shared/data/manifest.csv?sources=nih14,kermany224

.PHONY: setup clinic packages lock lowest demo story bundle bench-link bench-load cluster test lint types contracts pytest soak attack fuzz sbom wire commands clean

LOCKS = requirements/set_up.py requirements/build.lock

setup: $(STAMP)

$(STAMP): pyproject.toml $(LOCKS) requirements/development.lock requirements/torch.txt
	@echo "Set-up of $(VENV), once: 0.4 GB are fetched and 2.3 GB stored; 3 minutes at 50 Mbit/s."
	@echo "Where pip finds no CPU build of torch, CUDA comes too: 5 GB more. PIP_EXTRA_INDEX_URL tells pip where one is."
	@$(PYTHON) requirements/set_up.py $(VENV) requirements/development.lock
	@touch $@

# The smallest environment of a clinic, in any folder: make clinic CLINIC=/opt/thinwire
CLINIC ?= .venv-clinic
clinic: $(CLINIC)/.ready

$(CLINIC)/.ready: pyproject.toml $(LOCKS) requirements/clinic.lock
	@echo "Set-up of $(CLINIC), once: 0.13 GB are fetched and 0.4 GB stored; 1 minute at 50 Mbit/s."
	@$(PYTHON) requirements/set_up.py $(CLINIC) requirements/clinic.lock
	@touch $@

# Debian packages of both ends for installation without a network, into PACKAGES: the clinic's takes minutes, the hub's,
# with torch, a quarter of an hour. For the Debian release and the Python of this machine.
PACKAGES ?= build/packages
packages: $(STAMP)
	$(BIN)/python packaging/build_deb.py sender --out $(PACKAGES)
	$(BIN)/python packaging/build_deb.py receiver --out $(PACKAGES)

# Writes the locks: the newest releases for new packages; UPGRADE=--upgrade for all packages,
# UPGRADE="--upgrade-package numpy" for one. Every Python from 3.11 to 3.13; Linux, any processor with wheels.
UPGRADE ?=
UV   = build/uv/bin/uv
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest $(UPGRADE)
HASHED = --generate-hashes --custom-compile-command 'make lock'
# uv's marker on lines for all supported systems.
EVERYWHERE = ; python_full_version < '3.14' and platform_python_implementation == 'CPython' and sys_platform == 'linux'
lock: $(UV)
	$(LOCK) $(HASHED) pyproject.toml --extra sender --extra receiver --extra training --extra cluster --extra dev \
		-c requirements/torch.txt --no-emit-package torch -o requirements/development.lock
	$(LOCK) $(HASHED) pyproject.toml --extra sender -c requirements/development.lock -o requirements/clinic.lock
	$(LOCK) $(HASHED) pyproject.toml --extra receiver --extra cluster -c requirements/development.lock \
		-c requirements/torch.txt --no-emit-package torch -o requirements/hub.lock
	echo hatchling editables | tr ' ' '\n' | $(LOCK) $(HASHED) - -c requirements/development.lock -o requirements/build.lock
	echo cyclonedx-bom | $(LOCK) $(HASHED) - -c requirements/development.lock -o requirements/sbom.lock
	sed -i "s/ $(EVERYWHERE)//" requirements/*.lock
# The unit tests with the lowest releases that pyproject.toml allows (torch as locked). Deprecations between those
# releases are not errors.
LOWEST = .venv-lowest
lowest: $(UV)
	$(LOCK) $(HASHED) pyproject.toml --extra sender --extra receiver --extra training --extra cluster --extra dev --resolution lowest-direct \
		-c requirements/torch.txt --no-emit-package torch -o build/lowest.lock
	$(PYTHON) requirements/set_up.py $(LOWEST) build/lowest.lock
	$(LOWEST)/bin/pytest -n 2 --dist loadfile -q -W ignore::DeprecationWarning -W ignore::FutureWarning tests/unit

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

demo: $(STAMP)
	$(BIN)/python demo/demo.py $(if $(STUDIES),--studies $(STUDIES))

# A modality, a clinic, 64 kbit/s, a hub, a reader in a browser, a PACS. STORY= is the folder for the screenshots.
STORY ?= build/story
story: $(STAMP)
	@rm -f $(STORY)/timeline.txt
	THINWIRE_SCREENSHOTS=$(STORY) $(BIN)/pytest -n 0 -q -rs tests/end_to_end/test_whole_story.py
	@cat $(STORY)/timeline.txt || { echo "It was not played: apt-get install chromium dcmtk orthanc orthanc-dicomweb"; exit 1; }
	@echo "Screenshots are in $(STORY)"

# Trains the shipped bundle again, into build/nano, and writes its evaluation into its card; resumable.
# Times of the training: docs/clinical-evidence.md; the two evaluations take more.
MANIFEST = $(firstword $(subst ?, ,$(patsubst manifest:%,%,$(DATA))))
bundle: $(STAMP)
	$(BIN)/thinwire-receiver train all --data phantoms:7000 $(if $(DATA),--data '$(DATA)') \
		--epochs 10 --small-epochs 7 --imitate 0.5 --patience 20 --out build/nano
	$(BIN)/thinwire-receiver evaluate --bundle build/nano --phantoms 1000 --out build/phantoms
	$(if $(DATA),$(BIN)/thinwire-receiver evaluate --bundle build/nano --manifest $(MANIFEST) --out build/real)
	$(BIN)/thinwire-receiver bundle card build/nano --evaluation build/phantoms/evaluation.json \
		$(if $(DATA),--evaluation build/real/evaluation.json)

# thinwire beside DCMTK, Orthanc, HTTPS and rsync on emulated links; hours, resumable. Needs root: see
# docs/link-laboratory.md. ARGS="--quick" takes minutes.
ARGS ?=
bench-link: $(STAMP)
	$(BIN)/python -m benchmarks.link $(ARGS)

# Hundreds of clinics at one hub, on SQLite and PostgreSQL, deaths, and Orthanc beside: docs/load-laboratory.md. About two
# hours; ARGS="--quick" takes minutes.
bench-load: $(STAMP)
	$(BIN)/python -m benchmarks.load $(ARGS)

# Three replicas, workers, PostgreSQL and an S3 server under kills at random; `make test` plays a short form.
cluster: $(STAMP)
	THINWIRE_CLUSTER_SECONDS=120 THINWIRE_CLUSTER_CLINICS=200 $(BIN)/pytest --timeout 1800 -n 0 -q -rs \
		tests/end_to_end/test_cluster.py

test: lint types contracts pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

# Distributed by file, so that the tests of one file share its fixtures. A test that hangs in native code, where its own
# limit cannot end it, ends its process with the stacks of all threads.
HUNG = -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true --max-worker-restart 1
pytest: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile -q -rs $(HUNG)

# The property tests of durability with ten times the examples, from random seeds.
SOAKED = journeys_hold outbox_holds link_holds stick_holds store_once deliveries_hold worklist_query nothing_starves
soak: $(STAMP)
	THINWIRE_SOAK=1 $(BIN)/pytest --timeout 7200 -n 2 --dist loadfile -q $(SOAKED:%=tests/property/test_%.py)

# The attacks on real processes in their long form, in less than 20 minutes; as root also on file systems of their own.
# `make test` runs a short form.
attack: $(STAMP)
	THINWIRE_ATTACK=1 $(BIN)/pytest --timeout 1200 -n 2 --dist worksteal -q -rs \
		tests/attacks tests/faults/test_bombs.py tests/end_to_end/test_restored_backup.py

# Every parser of foreign bytes under a coverage-guided fuzzer, which has wheels for Linux on x86-64. FUZZ takes names of
# targets and options: FUZZ="payload crops --runs 1000000 --seconds 600 --keep". `make test` replays the kept inputs.
FUZZ ?=
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/fuzz.lock
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Software bills of materials (CycloneDX) from the locks, into build/sbom: the clinic, and the hub with the tools of
# development.
SBOM = build/sbom
BOM  = $(SBOM)/venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON
sbom:
	$(PYTHON) -m venv $(SBOM)/venv
	$(SBOM)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/sbom.lock
	$(BOM) -o $(SBOM)/clinic.cdx.json requirements/clinic.lock
	cat requirements/development.lock requirements/torch.txt > $(SBOM)/development.txt
	$(BOM) -o $(SBOM)/development.cdx.json $(SBOM)/development.txt

# The generated code is committed; tests/contract checks that it is current.
wire: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=shared --pyi_out=shared --grpc_python_out=shared proto/thinwire/shared/wire/v1/*.proto

# docs/commands.md is committed too, and checked in the same way.
commands: $(STAMP)
	$(BIN)/python docs/commands.py

clean:
	rm -rf $(VENV) demo-data
