# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
GUESTS := $(TARGET)/guests
IMSUP := $(abspath $(TARGET))/release/imsup
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
CFLAGS := -O1 -Wall -Wextra -Werror
built_guests := $(addprefix $(GUESTS)/,guest guest-musl servers servers-musl delays delays-musl oddities tracer crowd closer endure ledger ledger-musl floor signalfds news blocking sharing families escape-musl \
	hostile conformance guest-go java/Server.class java/Datagrams.class)
conformance := $(wildcard testdata/guests/conformance/*.c)
hostile := $(wildcard testdata/guests/hostile/*.c)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## install what is missing for building and testing (apt-get, sudo where needed)
	@scripts/setup.sh

.PHONY: build
build: ## build imsup (release) as $(TARGET)/release/imsup
	@scripts/setup.sh build
	cargo build --release -p imsup

.PHONY: dist
dist: ## build a static imsup as $(TARGET)/dist/imsup, with musl if the toolchain has or gets it (LIBC=musl or gnu: with that)
	@scripts/setup.sh dist
	@scripts/dist.sh $(TARGET) $(LIBC)

.PHONY: demo
demo: build ## a stack of services with images, booted by one request
	@scripts/setup.sh demo
	@scripts/images/make.py $(TARGET)/images
	@scripts/demo.sh $(IMSUP) $(TARGET)/images

.PHONY: guests
guests: $(built_guests) ## build the tests' guest programs

$(GUESTS)/%: testdata/guests/%.c testdata/guests/errno_name.h testdata/guests/serving.h testdata/guests/beside.h testdata/guests/blocked.h
	@mkdir -p $(@D)
	cc $(CFLAGS) -pthread -o $@ $<

$(GUESTS)/%-musl: testdata/guests/%.c testdata/guests/errno_name.h testdata/guests/serving.h testdata/guests/beside.h testdata/guests/blocked.h
	@mkdir -p $(@D)
	musl-gcc -static $(CFLAGS) -pthread -o $@ $<

# The calls whose coverage is measured (conformance/cover.c).
wrapped := bind listen connect accept accept4 getsockname getpeername getsockopt setsockopt shutdown send sendto sendmsg \
	sendmmsg write recv recvfrom recvmsg recvmmsg read poll ppoll select pselect epoll_ctl dup dup2 dup3 fcntl
comma := ,

# The cases pass what no honest program passes, which the compiler notices.
$(GUESTS)/conformance: $(conformance) testdata/guests/conformance/conformance.h testdata/guests/errno_name.h
	@mkdir -p $(@D)
	cc $(CFLAGS) -Wno-unused-result -Wno-nonnull -Wno-stringop-overread -pthread \
		$(addprefix -Wl$(comma)--wrap=,$(wrapped)) -o $@ $(conformance)

$(GUESTS)/hostile: $(hostile) testdata/guests/hostile/hostile.h testdata/guests/errno_name.h
	@mkdir -p $(@D)
	cc $(CFLAGS) -pthread -o $@ $(hostile)

$(GUESTS)/guest-go: $(wildcard testdata/guests/go/*.go) testdata/guests/go/go.mod
	@mkdir -p $(@D)
	cd testdata/guests/go && CGO_ENABLED=0 GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local go build -trimpath -o $(abspath $@) .

$(GUESTS)/java/%.class: testdata/guests/java/%.java
	@mkdir -p $(@D)
	javac -d $(@D) $<

.PHONY: images
images: ## make images of Debian's programs, for the demo and the tests: $(TARGET)/images
	@scripts/images/make.py $(TARGET)/images

.PHONY: compare
compare: setup images build ## run examples/images under docker compose and under imsup, and compare the answers (root)
	@scripts/compare-compose.sh $(IMSUP) $(TARGET)/images $(TARGET)/compose/docker-compose

.PHONY: suites
suites: setup ## fetch and build other people's test suites, for the tests
	@scripts/suites.sh $(TARGET)/suites

.PHONY: test
test: setup guests images suites dist ## run all tests, set-up included (as root: also once more as an ordinary user)
	@scripts/test.sh

# A look at everything; BENCH names a suite or table, which is run at full length, or options.
BENCH ?= --quick

.PHONY: bench
bench: setup guests build ## a look at all benchmarks; BENCH=SUITE runs one at full length
	cargo run --release -p imsup-bench -- --imsup $(IMSUP) $(BENCH)

.PHONY: report
report: setup guests build ## compare with docker, systemd and others, which it installs: bench/results/report.md
	@scripts/setup.sh peers
	cargo run --release -p imsup-bench -- --imsup $(IMSUP) report

.PHONY: regress
regress: setup guests ## whether the work tree is slower than a commit: AGAINST=HEAD~1 (HEAD where files differ from it)
	@scripts/setup.sh regress
	@scripts/regress.sh $(TARGET) "$(AGAINST)" $(REGRESS)

.PHONY: endurance
endurance: guests ## the tests for leaks, at full length: a million connects, a hundred thousand forks; three thousand faults
	IMSUP_ENDURANCE_TIMES=5 cargo test -p imsup --test endurance -- --nocapture
	IMSUP_WITHOUT=pidfd_getfd,process_vm_readv cargo test -p imsup --test endurance connects -- --nocapture
	IMSUP_CHAOS_FAULTS=3000 cargo test -p imsup --test chaos -- --nocapture

.PHONY: kvm
kvm: setup guests build ## limits by cgroup v2, in a virtual machine with Debian's kernel (fetches 27 MB); ACCEL=tcg emulates it
	@scripts/kvm.sh $(IMSUP) $(GUESTS)

.PHONY: fuzz
fuzz: guests ## hostile programs, then the decoders and the unpacker, for FUZZ_SECONDS each (the latter need cargo-fuzz and a nightly toolchain)
	IMSUP_HOSTILE_SECONDS=$(FUZZ_SECONDS) cargo test -p imsup --test hostile -- --nocapture
	@command -v cargo-fuzz >/dev/null || { echo "fuzz: install it first: cargo install cargo-fuzz; rustup toolchain install nightly" >&2; exit 1; }
	for crate in wire/protocol broker/images; do (cd $$crate && for target in $$(cargo +nightly fuzz list); do \
		mkdir -p fuzz/corpus/$$target && \
		cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS); done); done

# The crates that make no system call of their own.
pure := imsup-wire

.PHONY: miri
miri: ## the unit tests of the pure crates under miri (needs a nightly toolchain with miri and rust-src)
	@cargo +nightly miri --version >/dev/null || { echo "miri: install it first: rustup toolchain install nightly --component miri --component rust-src" >&2; exit 1; }
	cargo +nightly miri test $(addprefix -p ,$(pure)) --lib

.PHONY: fmt
fmt: ## format the sources
	cargo fmt --all

.PHONY: lint
lint: ## what .ci/run checks besides the tests
	@scripts/lint.sh

.PHONY: install
install: build ## install imsup below PREFIX (/usr/local)
	install -D -m 755 $(IMSUP) $(DESTDIR)$(PREFIX)/bin/imsup

.PHONY: clean
clean: ## remove what was built
	cargo clean
