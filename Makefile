# `make demo` and `make test` do their own set-up.  Paths may hold spaces, so everything is quoted
# and the environment is entered by PATH, not by a path in a rule's name.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
DATA ?=
JOBS ?=
STAMP := .venv/.installed
PIP := --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo paper test test-slow lint format bench gpu clean

demo: $(STAMP)
	dvc repro
	python -m benchmarks.demo

# Stages side by side where JOBS is given, which DVC cannot do.
paper: $(STAMP)
	python -m benchmarks.paper.run $(if $(DATA),--data "$(DATA)") $(if $(JOBS),--jobs "$(JOBS)")
	$(if $(JOBS),,dvc repro benchmarks/paper/dvc.yaml)

# A file's tests stay in one process, which makes what they share once.  In the order of their names
# the long files come first, and the short ones fill up both processes at the end.
# Threads of one process that spin while they wait would take the cores from the other one's.
test: export OMP_WAIT_POLICY := PASSIVE
test: $(STAMP)
	python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	python -m pytest -m slow

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: $(STAMP)
	ruff check --fix .
	ruff format .

bench: $(STAMP)
	python -m benchmarks.philox
	python -m benchmarks.teacher --out benchmarks/teacher.md
	python -m benchmarks.student --out benchmarks/student.md

# With what the machine has, where a GPU is: nothing is installed.
gpu:
	python3 -m benchmarks.gpu --out benchmarks/gpu.md

clean:
	rm -rf .venv

# The exact versions.  PyPI's torch for Linux brings CUDA: PIP_EXTRA_INDEX_URL says where there is one
# for CPUs.  Python compiles what is imported when it is, a small part of what is installed.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 on the PATH; name one with make PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	python -m pip install $(PIP) torch
	python -m pip install $(PIP) --editable '.[test,dev]'
	touch $(STAMP)
