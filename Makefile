# Two commands set everything up: `make demo` and `make test`. Each starts from nothing.

BIN := .venv/bin
READY := .venv/ready

.PHONY: help demo test test-faults test-zoo gallery bench lint unit clean

help:
	@echo "make demo   train two blocks of the paper on real text; figures, curves and one HTML page (build/demo)"
	@echo "make test   everything that CI runs"
	@echo "make test-faults  the long forms of the tests that kill, cut and fill up"
	@echo "make test-zoo  the zoo alone: every model against an independent implementation"
	@echo "make gallery  docs/gallery: a page for every shipped spec"
	@echo "make bench  every benchmark, to docs/results/performance.md (on an idle core)"
	@echo "make clean  remove what these commands made"

demo: $(READY)
	$(BIN)/python -m runners.demo --out build/demo

test: lint unit

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal

test-faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -s

test-zoo: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile tests/zoo

gallery: $(READY)
	$(BIN)/python tools/gallery.py

bench: $(READY)
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/all.py

$(READY): pyproject.toml constraints.txt tools/venv.sh
	sh tools/venv.sh
	@touch $@

clean:
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
