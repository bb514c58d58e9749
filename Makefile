# make demo   a running MXFlex with a simulated MX; needs git, make and python3 with venv only
# make test   everything that has to be right before a change goes in

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60

# The tests and the program say themselves what they need; nothing from outside should interfere.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test leaks lint format fuzz bench bench-quick where soak figures viewer screenshots dist deb \
	deb-check release clean

help:
	@echo "make demo     install into $(VENV) and run MXFlex with a simulated MX"
	@echo "make test     lint, types and all tests"
	@echo "make leaks    100,000 clients come and go, and nothing may be left; some minutes"
	@echo "make lint     ruff and mypy"
	@echo "make format   let ruff format the code"
	@echo "make fuzz     the harnesses of fuzz/ side by side; FUZZ_SECONDS=60 for each"
	@echo "make bench    measure MXFlex beside nginx with nchan and a server in C; 15 minutes"
	@echo "make bench-quick   a minute of it"
	@echo "make where    in whose code the time of a server goes, by perf; a minute or two"
	@echo "make soak     an hour in which the MX fails and clients come and go; SOAK_MINUTES=60"
	@echo "make figures  put the results in the folders RUNS=… into docs/performance.md"
	@echo "make screenshots   every state of the console, for the eyes, into build/screenshots"
	@echo "make viewer   renew the viewer of the OpenAPI document from npm; VIEWER=latest"
	@echo "make dist     build the wheel and the source archive into dist/"
	@echo "make deb      build a Debian package for this machine's python3 into dist/"
	@echo "make deb-check   lintian, and install it into a small Debian and use it; as root"
	@echo "make release  what is published of a version, built twice and tried, with a bill of materials"
	@echo "make clean    remove what the other targets have made"
	@echo "PYTHON=python3.13 make test   choose the interpreter (after make clean)"

# Each stamp is made anew when what is to be installed has changed, so a second run costs nothing.
$(VENV)/.stamp-venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MXFlex needs Python 3.11 or newer; name one: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-run: setup.cfg pyproject.toml mxflex/__init__.py $(VENV)/.stamp-venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.stamp-test: setup.cfg pyproject.toml mxflex/__init__.py $(VENV)/.stamp-venv
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@ $(VENV)/.stamp-run

# From source atheris wants a clang of the same age, and minutes.
$(VENV)/.stamp-fuzz: setup.cfg pyproject.toml mxflex/__init__.py $(VENV)/.stamp-venv
	@$(BIN)/python -m pip install --quiet --only-binary atheris --editable '.[fuzz]' || { \
		echo "make fuzz: atheris cannot be installed. It has wheels for Python 3.11 to 3.13 on" \
			"Linux, and this is $$($(BIN)/python -V)." \
			"With another one: make fuzz VENV=.venv-fuzz PYTHON=python3.11" >&2; exit 1; }
	@touch $@ $(VENV)/.stamp-run

$(VENV)/.stamp-bench: setup.cfg pyproject.toml mxflex/__init__.py $(VENV)/.stamp-venv
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/.stamp-run

demo: $(VENV)/.stamp-run
	$(BIN)/twistd --nodaemon --pidfile= mxflex --demo

# A process for each core, and one for the tests of a file; the slow files come first by their names.
# PYTEST_ARGS="-n 0" runs them in this process, where a debugger works.
test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Others: make leaks ROUNDS=20000
ROUNDS ?= 100000
leaks: $(VENV)/.stamp-test
	MXFLEX_LEAK_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -s tests/endtoend/test_leaks.py

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# fuzz/README.md says what to do with a finding.
fuzz: $(VENV)/.stamp-fuzz
	$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

# docs/performance.md says what else these need; BENCH_ARGS="--output FOLDER" and the like.
bench: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks --plan quick $(BENCH_ARGS)

where: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.where $(WHERE_ARGS)

# As contrib/mxflex.service starts it; SOAK_PRELOAD= for the malloc of the C library.
SOAK_PRELOAD ?= libjemalloc.so.2
SOAK_MINUTES ?= 60
soak: $(VENV)/.stamp-bench
	LD_PRELOAD=$(SOAK_PRELOAD) $(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

figures: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.document $(RUNS)

# Every state of the console, for the eyes: build/screenshots.
screenshots: $(VENV)/.stamp-test
	$(BIN)/python -m tests.endtoend.screenshots

VIEWER ?= latest
viewer: $(VENV)/.stamp-venv
	$(BIN)/python -m tools.viewer $(VIEWER)

dist: $(VENV)/.stamp-test
	rm -rf dist
	$(BIN)/python -m tools.archives dist

$(VENV)/.stamp-release: setup.cfg pyproject.toml mxflex/__init__.py $(VENV)/.stamp-venv
	$(BIN)/python -m pip install --quiet --editable '.[release]'
	@touch $@ $(VENV)/.stamp-run

# CONTRIBUTING.md says what comes before and after.
release: $(VENV)/.stamp-release
	$(BIN)/python -m tools.release dist

# Needs Debian's dpkg-dev, debhelper and python3-venv. From the source archive, so that nothing which
# lies about in the checkout gets in.
deb: dist
	rm -rf build/deb
	mkdir -p build/deb
	tar -xzf dist/mxflex-*.tar.gz -C build/deb
	cd build/deb/mxflex-* && dpkg-buildpackage --build=binary --no-sign
	cp build/deb/*.deb dist/
	@ls dist/*.deb

# Needs root, debootstrap, lintian and curl. DEB_ROOT keeps the small Debian for the next time.
DEB_ROOT ?= build/deb/root
deb-check: deb
	debian/check.sh dist/mxflex_*.deb $(DEB_ROOT)

clean:
	rm -rf benchmarks/native/build fuzz/found
	rm -rf $(VENV) build dist mxflex.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f twisted/plugins/dropin.cache
	find benchmarks fuzz mxflex tests tools twisted -name __pycache__ -prune -exec rm -rf {} +
