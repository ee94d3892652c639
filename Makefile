# Commands for developers and CI. All output goes to .venv/ and build/; stamp files there record
# finished steps, so a second call only does what has changed.

PYTHON ?= python3
DEMO ?= fastapi
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

VENV := .venv
# Folders are listed too, to notice added and removed files.
PACKAGE := pyproject.toml setup.py $(shell find csrc python/rate_limiter -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SECONDARY:
.SECONDEXPANSION:

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

# --- Commands --------------------------------------------------------------------------------

.PHONY: demo demos demo-arguments test test-all wheels lint pytest bench docs docs-serve screenshots clean
demo: demo-arguments $(VENV)/demo.stamp ## serve a demo (DEMO=fastapi; PORT=5000 for another port)
	@exec $(VENV)/bin/python -m demo '$(DEMO)' $(PORT)

demos: ## list the demos
	@awk '!/^#/ { printf "  make demo DEMO=%-12s port %s  ", $$1, $$3; $$1 = $$2 = $$3 = ""; sub(/^ */, ""); print }' demo/demos.txt

# Checked before anything is built.
demo-arguments:
	@awk -v name='$(DEMO)' '!/^#/ { all = all (all ? ", " : "") $$1; found = found || name == $$1 || name == $$2 } \
		END { if (!found) { print "there is no demo \"" name "\": expected one of " all; exit 1 } }' demo/demos.txt >&2
	@awk -v port='$(PORT)' 'BEGIN { if (port != "" && (port !~ /^[0-9]+$$/ || port < 1 || port > 65535)) { \
		print "PORT=\047" port "\047 is not a port: expected a number from 1 to 65535"; exit 1 } }' >&2

test: test-packages ## lint, C tests, sanitizers, Python tests
	@$(MAKE) --no-print-directory -j$(JOBS) lint fuzz fuzz-binding c-test c-sanitize
	@$(MAKE) --no-print-directory pytest

test-all: $(VENV)/check.stamp ## Python tests on every CPython from 3.10 found here (OTHERS=1: except this one)
	@$(VENV)/bin/python .ci/test_all.py $(if $(OTHERS),--others)

wheels: $(VENV)/wheels.stamp ## Linux wheels of every CPython found here, built and tried (ONLY=3.13; SUITE=1: all tests)
	@PYTHON='$(PYTHON)' .ci/system-packages wheels
	@$(VENV)/bin/python .ci/wheels.py $(if $(ONLY),--only $(ONLY)) $(if $(SUITE),--suite)

pytest: $(VENV)/check.stamp ## only the Python tests, on the installed package
	@.ci/pytest $(VENV)

lint: $(VENV)/check.stamp ## ruff, clang-format, mypy, and the stubs against the extension
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_FORMATTED)
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/python -m mypy.stubtest --concise rate_limiter._core

bench: $(VENV)/bench.stamp ## the figures of the documentation, measured here, in build/bench
	@PYTHON='$(PYTHON)' .ci/system-packages bench
	@$(VENV)/bin/python benchmarks/field.py --json build/bench/field.json
	@$(VENV)/bin/python benchmarks/engine.py
	@$(VENV)/bin/python benchmarks/web.py --json build/bench/web.json $(if $(filter Darwin,$(shell uname)),,--server)
	@$(VENV)/bin/python benchmarks/compat_redis.py
	@$(VENV)/bin/python benchmarks/rules.py
	@$(VENV)/bin/python benchmarks/metrics.py
	@$(VENV)/bin/python benchmarks/service.py

docs: $(VENV)/docs.stamp ## the docs site, in build/site
	@$(VENV)/bin/python docs/build_site.py
	@echo "built build/site; make docs-serve serves it, so that search works"

docs-serve: docs ## serve the docs site on a free port (PORT=8000 for another one)
	@exec $(VENV)/bin/python -u -m http.server $(or $(PORT),0) --bind 127.0.0.1 --directory build/site

screenshots: docs $(VENV)/test.stamp ## PNGs of the site, the service's pages and the live page, in build/screenshots
	@PYTHON='$(PYTHON)' .ci/system-packages docs
	@$(VENV)/bin/python docs/screenshots.py

clean: ## remove all build output
	@rm -rf $(VENV) build dist .hypothesis python/*.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

# --- The environment -------------------------------------------------------------------------

# A different PYTHON than last time needs a new environment.
ifneq ($(PYTHON),$(shell cat $(VENV)/created.stamp 2>/dev/null))
.PHONY: $(VENV)/created.stamp
endif
$(VENV)/created.stamp:
	@PYTHON='$(PYTHON)' .ci/system-packages demo
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install -qq --upgrade pip 'setuptools>=77'
	@echo '$(PYTHON)' >$@

# Delete modules of an older build, which may have been removed since.
$(VENV)/package.stamp: $(VENV)/created.stamp $(PACKAGE)
	@echo "Building rate_limiter and installing it into $(VENV)"
	@find build/lib* -type f ! -name '*.so' -delete 2>/dev/null || true
	@$(VENV)/bin/pip install -qq --no-deps --no-build-isolation .
	@touch $@

# The package is installed already, so pip only adds the packages of the extra.
$(VENV)/%.stamp: pyproject.toml $(VENV)/created.stamp $(VENV)/package.stamp
	@echo "Installing what rate-limiter-c[$*] needs into $(VENV)"
	@$(VENV)/bin/pip install -qq 'rate-limiter-c[$*]'
	@$(if $(filter check,$*),$(VENV)/bin/python .ci/old_packages.py)
	@touch $@

# --- The C tests -----------------------------------------------------------------------------

# Every tests/c/*/test_*.c is a program. It runs once per variant, in build/c/VARIANT.
C_VARIANTS := gcc gcc-nosimd clang clang-nosimd
C_SANITIZERS := asan asan-nosimd tsan $(if $(filter Darwin,$(shell uname)),,valgrind)

C_FLAGS := -std=gnu11 -g -fno-omit-frame-pointer -pthread -Wall -Wextra -Wconversion -Werror -Icsrc
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all
build/c/gcc/%: C_COMPILE = gcc $(C_FLAGS) -O2
build/c/gcc-nosimd/%: C_COMPILE = gcc $(C_FLAGS) -O2 -DRL_NO_SIMD
build/c/clang/%: C_COMPILE = clang $(C_FLAGS) -O2
build/c/clang-nosimd/%: C_COMPILE = clang $(C_FLAGS) -O2 -DRL_NO_SIMD
build/c/asan/%: C_COMPILE = clang $(C_FLAGS) -O1 $(ASAN)
build/c/asan-nosimd/%: C_COMPILE = clang $(C_FLAGS) -O1 $(ASAN) -DRL_NO_SIMD
build/c/tsan/%: C_COMPILE = clang $(C_FLAGS) -O1 -fsanitize=thread
build/c/valgrind/%: C_COMPILE = gcc $(C_FLAGS) -O1
build/c/valgrind/%: C_RUN = valgrind --quiet --error-exitcode=1 --leak-check=full

# A deadlock is a failure too. (macOS has no timeout.)
C_TIMEOUT := $(if $(shell command -v timeout),timeout 600)

C_LIBRARIES = $(shell pkg-config --libs hiredis openssl) -lm
C_CORE := $(wildcard csrc/engine/*.c csrc/http/*.c csrc/redis/*.c)
C_BINDING := $(wildcard csrc/python/*.c csrc/python/redis/*.c)
C_SUPPORT := $(wildcard tests/c/*.c)
C_HEADERS := $(wildcard csrc/*/*.h csrc/*/*/*.h tests/c/*.h)
C_FORMATTED := $(C_CORE) $(C_BINDING) $(C_HEADERS) $(C_SUPPORT) $(wildcard tests/c/*/*.c tests/fuzz/*.c)

# Only engine/line.h has a version without SIMD, and only the engine includes it.
core_in = $(if $(filter %-nosimd,$(1)),$(filter csrc/engine/%,$(C_CORE)),$(C_CORE))
tests_in = $(basename $(notdir $(wildcard tests/c/$(if $(filter %-nosimd,$(1)),engine,*)/test_*.c)))
passed_in = $(foreach variant,$(1),$(patsubst %,build/c/$(variant)/%.passed,$(call tests_in,$(variant))))

.PHONY: c-test c-sanitize test-packages
c-test: build/c/gcc/binding.o build/c/clang/binding.o $(call passed_in,$(C_VARIANTS)) ## C tests with gcc and clang
	@:
c-sanitize: $(call passed_in,$(C_SANITIZERS)) ## C tests under ASan+UBSan, TSan, valgrind
	@:

# Two targets at a time, each for so long: make fuzz FUZZ_SECONDS=600
FUZZ_SECONDS ?= 30
FUZZ_TARGETS := $(basename $(notdir $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_COMPILE = clang $(C_FLAGS) -O1 $(ASAN) -fsanitize=fuzzer -DRL_LOCK_NAPS=1u

.PHONY: fuzz
fuzz: $(FUZZ_TARGETS:%=build/fuzz/%) ## libFuzzer on addresses, shared files and what a server sends (FUZZ_SECONDS=30)
	@printf '%s\n' $(FUZZ_TARGETS) | xargs -n 1 -P 2 sh -c ' \
		mkdir -p build/fuzz/found_$$0; \
		build/fuzz/$$0 -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 \
			-artifact_prefix=build/fuzz/ build/fuzz/found_$$0 tests/fuzz/corpus_$${0#fuzz_} \
			>build/fuzz/$$0.log 2>&1 || { tail -n 40 build/fuzz/$$0.log; exit 1; }; \
		echo "$$0: $$(grep -o "Done .*" build/fuzz/$$0.log)"'

build/fuzz/%: tests/fuzz/%.c build/fuzz/core/core.a
	@$(FUZZ_COMPILE) -Wl,--wrap=getaddrinfo,--wrap=connect -o $@ $^ $(C_LIBRARIES)

build/fuzz/core/core.a: $(C_CORE) tests/fuzz/no_network.c $(C_HEADERS) Makefile | test-packages
	@rm -rf $(@D) && mkdir -p $(@D)/objects
	@cd $(@D)/objects && $(FUZZ_COMPILE) -I$(UP)csrc -c $(addprefix $(UP),$(C_CORE) tests/fuzz/no_network.c)
	@ar rcs $@ $(@D)/objects/*.o

# --- The binding under ASan+UBSan ------------------------------------------------------------

# A copy of the environment in which the package is built with sanitizers. macOS cannot preload
# their library, so these targets do nothing there.
SANITIZED := build/sanitized/venv
CAN_PRELOAD := $(if $(filter Darwin,$(shell uname)),,yes)

.PHONY: sanitize fuzz-binding pytest-sanitized
sanitize: c-sanitize fuzz-binding pytest-sanitized ## all tests that run under sanitizers

fuzz-binding: $(if $(CAN_PRELOAD),$(SANITIZED).stamp) ## hostile calls of the binding (FUZZ_SECONDS=30)
	@$(if $(CAN_PRELOAD),PYTHONPATH=tests .ci/sanitized $(SANITIZED)/bin/python -m fuzz.fuzz_binding --seconds $(FUZZ_SECONDS))

pytest-sanitized: $(if $(CAN_PRELOAD),$(SANITIZED).stamp) ## the Python tests under ASan+UBSan
	@$(if $(CAN_PRELOAD),.ci/sanitized .ci/pytest $(SANITIZED) --ignore=tests/project -m 'not unsanitized')

$(SANITIZED).stamp: $(PACKAGE) $(VENV)/check.stamp Makefile | test-packages
	@rm -rf $(SANITIZED) && mkdir -p $(@D) && cp -al $(VENV) $(SANITIZED)
	@grep -rlI '$(CURDIR)/$(VENV)' $(SANITIZED)/bin $(SANITIZED)/pyvenv.cfg \
		| xargs sed -i 's|$(CURDIR)/$(VENV)|$(CURDIR)/$(SANITIZED)|g'
	@rm -rf $(SANITIZED)/lib/python*/site-packages/rate_limiter $(@D)/build
	@RATE_LIMITER_SANITIZE=1 CC=clang LDSHARED='clang -shared' $(SANITIZED)/bin/python setup.py --quiet \
		build --build-base $(@D)/build --build-lib $(SANITIZED)/lib/python*/site-packages
	@touch $@

test-packages:
	@PYTHON='$(PYTHON)' .ci/system-packages test

# From a folder of object files back to the root, relative: the root's path may have spaces.
UP := ../../../../

# The core is built with a hook that lets tests make allocations fail.
build/c/%/core.a: $(C_CORE) $(C_SUPPORT) $(C_HEADERS) Makefile | test-packages
	@rm -rf $(@D)/objects && mkdir -p $(@D)/objects
	@cd $(@D)/objects && $(C_COMPILE) -I$(UP)csrc -DRL_TEST_ALLOC -c \
		$(addprefix $(UP),$(call core_in,$*) $(C_SUPPORT))
	@rm -f $@ && ar rcs $@ $(@D)/objects/*.o

build/c/%.bin: $$(wildcard tests/c/*/$$(*F).c) $$(@D)/core.a
	@$(C_COMPILE) -Itests/c -DRL_TEST_ALLOC -o $@ $^ $(C_LIBRARIES)

build/c/%.passed: build/c/%.bin
	@$(C_TIMEOUT) $(C_RUN) $< >$<.log 2>&1 || { echo "$*: FAILED"; cat $<.log; exit 1; }
	@echo "$*: $$(tail -n 1 $<.log)"
	@touch $@

# The binding has no C tests, but both compilers must accept it without a warning.
build/c/%/binding.o: $(C_BINDING) $(C_HEADERS) Makefile | test-packages
	@mkdir -p $(@D)/binding
	@cd $(@D)/binding && $(C_COMPILE) -I$(UP)csrc -fPIC -c $(addprefix $(UP),$(C_BINDING)) \
		-isystem "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')"
	@touch $@
