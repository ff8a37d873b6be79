# The one set of verbs: people, .ci/run and the workflows call these. Each does its own set-up.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
FUZZ_SECONDS ?= 20
# torch is gigabytes: a connection that breaks is taken up again.
export PIP_RESUME_RETRIES ?= 50

SOURCES := Cargo.toml Cargo.lock pyproject.toml mmnpz/_mmnpz.pyi $(shell find rust/format/src rust/file rust/python -name '*.rs' -o -name Cargo.toml)

.PHONY: help demo train large test lint deny types rust model wheel docs fuzz bench bench-quick free-threaded ci format clean
.DELETE_ON_ERROR:

help:  ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# An environment of our own with the package built into the source tree.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/built: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet --editable .
	@touch $@

# $(call extra,NAME): a file that tells that the dependencies of this extra are installed.
$(VENV)/extra-%: $(VENV)/built pyproject.toml
	$(BIN)/pip install --quiet --editable '.[$*]'
	@touch $@

demo: $(VENV)/extra-demo  ## the main job on real files: write a dataset, append, read excerpts, compare with numpy.load
	$(BIN)/python examples/demo.py

# Of arcade, only the sounds: no code of it runs.
train: $(VENV)/extra-torch  ## train on real audio: spectrograms of different lengths, random excerpts, workers
	$(BIN)/pip install --quiet --no-deps arcade==3.3.3
	$(BIN)/python examples/train.py

large: $(VENV)/extra-demo  ## arrays larger than memory: a recording, a simulation that is killed, HDF5 and Zarr, labels
	$(BIN)/pip install --quiet h5py 'zarr>=3.1.4'
	$(BIN)/python examples/large.py

# Worksteal: some tests take a minute, and most none at all.
test: $(VENV)/extra-test  ## the Python tests
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/extra-lint  ## formats and lints, Python and Rust
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cargo fmt --all --check
	cargo fmt --manifest-path rust/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	$(BIN)/python .ci/check_house.py

TOOLS := $(CURDIR)/.tools

$(TOOLS)/bin/cargo-deny:
	cargo install --quiet --locked --debug cargo-deny --root $(TOOLS)  # compiled twice as fast, and used once

deny: $(TOOLS)/bin/cargo-deny  ## what the Rust dependencies are: licences, sources, versions (DENY=advisories asks the network)
	$(TOOLS)/bin/cargo-deny --locked check bans licenses sources $(DENY)

types: $(VENV)/extra-lint $(VENV)/extra-demo $(VENV)/extra-bench $(VENV)/extra-torch  ## types: mypy, pyright, and the stub against the binary
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest mmnpz._mmnpz --allowlist .ci/stubtest-allowlist
	$(BIN)/pyright --pythonpath $(BIN)/python

# Random tests are the same each time where CI is set, as those of Hypothesis are.
rust:  ## the Rust tests of the crates that have no Python
	$(if $(CI),PROPTEST_RNG_SEED=1) cargo test --package mmnpz-format --package mmnpz-file --locked

model:  ## what has no locks: all interleavings in a model, and real threads under Miri (needs a nightly toolchain)
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
		cargo test --release --package mmnpz-file --lib first_wins --locked
	rustup component add --toolchain nightly miri rust-src
	cargo +nightly miri test --target-dir target/miri --package mmnpz-file --test first_wins --locked
	# These leak what a fork loses, and places for descriptors, for good.
	MIRIFLAGS=-Zmiri-ignore-leaks \
		cargo +nightly miri test --target-dir target/miri --package mmnpz-file --lib --locked -- first_wins lock copy_pool

wheel:  ## sdist and wheel, and the tests on the installed wheel with the oldest NumPy
	.ci/test-wheel $(PYTHON)

docs: $(VENV)/extra-docs $(VENV)/extra-torch $(VENV)/extra-frameworks $(VENV)/extra-test  ## the documentation, warnings are errors; and its examples of other frameworks
	$(BIN)/sphinx-build -n -T -W --keep-going -b html docs docs/_build/html
	MMNPZ_FRAMEWORKS=1 $(BIN)/pytest -q tests/test_docs.py -k frameworks

fuzz:  ## fuzz each target for FUZZ_SECONDS (needs a nightly toolchain)
	.ci/fuzz $(FUZZ_SECONDS)

bench: $(VENV)/extra-bench  ## the benchmarks: writes the table and the plots that README and docs show
	$(BIN)/python benchmarks/run.py --report

bench-quick: $(VENV)/extra-bench  ## the same with tiny sizes, to see that they work
	$(BIN)/python benchmarks/run.py --quick

free-threaded:  ## the Python tests on a free-threaded CPython, built if there is none
	.ci/test-free-threaded

ci:  ## all that .ci/run does
	.ci/run

format: $(VENV)/extra-lint  ## format Python and Rust
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt --all
	cargo fmt --manifest-path rust/fuzz/Cargo.toml

clean:  ## remove what was built
	rm -rf $(VENV) .venv-* .tools target rust/fuzz/target docs/_build dist mmnpz/*.so
