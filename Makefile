# What one can do with this tree. `make` alone lists it.
#
# Nothing here starts, stops or changes a service of the machine: servers for tests and demo run on free ports of the
# loopback, in folders of their own, out of .servers/ where Debian's redis-server is not installed.

CARGO ?= cargo
CARGO_TARGET_DIR ?= target

.DEFAULT_GOAL := help
.PHONY: help demo test clients jobs conformance prove price build fmt lint docs bench bench-full clean-servers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## two real servers, the proxy between, load, cutover, rollback, cutover, and the proof that nothing was lost
	tests/servers/fetch.sh --required
	$(CARGO) build --release -p twinlane -p twinlane-tests --bin twinlane --bin demo
	$(CARGO_TARGET_DIR)/release/demo

test: ## fetch the servers that tests need, then run every test
	tests/servers/fetch.sh
	$(CARGO) build -p twinlane --bin twinlane
	$(CARGO) test --workspace

clients: ## every client library through the proxy, with cutovers in the middle of everything it does
	tests/servers/fetch.sh
	tests/clients/fetch.sh
	$(CARGO) build -p twinlane -p twinlane-clients --bins
	$(CARGO_TARGET_DIR)/debug/clients

jobs: ## BullMQ, Celery and RQ through the proxy, TWINLANE_JOBS jobs each (20,000), with a cutover and a rollback
	tests/servers/fetch.sh --required
	tests/clients/fetch.sh
	$(CARGO) build -p twinlane -p twinlane-clients --bins
	$(CARGO_TARGET_DIR)/debug/jobs

conformance: ## Redis's own test suite through the proxy, and both servers compared behind every unit (minutes)
	tests/servers/fetch.sh --required
	tests/conformance/run.sh

build: ## the release binary: target/release/twinlane
	$(CARGO) build --release -p twinlane --bin twinlane

fmt: ## format the code
	$(CARGO) fmt --all

lint: ## formatting and clippy, as CI asks for them
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: ## the API documentation, broken links refused
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps

prove: ## the long proofs: contended runs, verifies, a hundred kills, a million keys copied under traffic, two hundred flips, outages of the mirror
	tests/servers/fetch.sh --required
	$(CARGO) build --release -p twinlane -p twinlane-tests -p twinlane-loadtest --bins
	$(CARGO_TARGET_DIR)/release/prove contended --runs 10
	$(CARGO_TARGET_DIR)/release/prove contended --runs 2 --old redis-6.2 --new valkey-8.1
	$(CARGO_TARGET_DIR)/release/prove contended --runs 1 --seconds 600 --watched-by shadow --without databases
	$(CARGO_TARGET_DIR)/release/prove verify-quiet
	$(CARGO_TARGET_DIR)/release/prove verify-finds
	$(CARGO_TARGET_DIR)/release/prove crashes --kills 100
	$(CARGO_TARGET_DIR)/release/prove warm
	$(CARGO_TARGET_DIR)/release/prove warm --kill
	$(CARGO_TARGET_DIR)/release/prove backfill-speed
	$(CARGO_TARGET_DIR)/release/prove flips --flips 200
	$(CARGO_TARGET_DIR)/release/prove outage

price: ## instructions per command in the core, with the journal and without (callgrind)
	tests/price.sh

bench: ## the proxy beside its peers, short: throughput, latency, CPU, memory, fairness (reports in target/bench)
	tests/servers/fetch.sh --required
	$(CARGO) build --release -p twinlane -p twinlane-loadtest --bins
	loadtest/bench.sh --rounds 3 --seconds 1

bench-full: ## the same, long: five rounds of three seconds (fifty minutes)
	tests/servers/fetch.sh --required
	$(CARGO) build --release -p twinlane -p twinlane-loadtest --bins
	loadtest/bench.sh

clean-servers: ## remove the fetched servers, client libraries and job queues
	rm -rf .servers .clients
