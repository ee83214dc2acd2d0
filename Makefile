# `make demo` shows the whole path, `make story` plays it with people and hospital systems, `make test` checks it.
# Each sets itself up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
STUDIES ?=
# Real images that a shipped bundle may learn from; DATA= trains on phantoms alone.
DATA    ?= manifest:../shared/data/manifest.csv?sources=nih14,kermany224

.PHONY: setup demo story bundle bench-link test lint types contracts pytest wire commands clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "thinwire needs Python 3.11 or later; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python cannot make a virtual environment here. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sender,receiver,training,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python demo/demo.py $(if $(STUDIES),--studies $(STUDIES))

# An X-ray machine, a clinic, 64 kbit/s, a hub, a reader in a browser, a PACS. STORY= is the folder for the screenshots.
STORY ?= build/story
story: $(STAMP)
	@rm -f $(STORY)/timeline.txt
	THINWIRE_SCREENSHOTS=$(STORY) $(BIN)/pytest -n 0 -q -rs tests/end_to_end/test_whole_story.py
	@cat $(STORY)/timeline.txt || { echo "It was not played: apt-get install chromium dcmtk orthanc orthanc-dicomweb"; exit 1; }
	@echo "Screenshots are in $(STORY)"

# Makes the bundle that comes with thinwire again, into build/nano, and writes what it is worth into its card; resumable.
# What the training took, part by part, is in docs/clinical-evidence.md; the two evaluations come on top.
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

test: lint types contracts pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/mypy demo/demo.py

contracts: $(STAMP)
	$(BIN)/lint-imports

pytest: $(STAMP)
	$(BIN)/pytest -n 2 -q -rs

# The generated code is committed; tests/contract checks that it is current.
wire: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=shared --pyi_out=shared --grpc_python_out=shared proto/thinwire/shared/wire/v1/*.proto

# docs/commands.md is committed too, and checked in the same way.
commands: $(STAMP)
	$(BIN)/python docs/commands.py

clean:
	rm -rf $(VENV) demo-data
