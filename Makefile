# Two commands: `make demo` sets everything up and answers questions on the shipped corpus; `make test` sets everything up
# and runs the tests. Nothing is installed twice: .venv is made anew only when pyproject.toml changes.

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	@$(BIN)/needle index data/corpus/documents --store .demo
	@$(BIN)/needle ask --store .demo --top-k 2 --questions data/corpus/demo-questions.txt

test: .venv/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	tests/types.sh

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .demo build *.egg-info
