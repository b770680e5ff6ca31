# Two commands bring a newcomer there: `make setup`, then `make run`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

ENGINE ?= sample
SOAK ?= 30m
SECONDS_EACH ?= 60
TARGET ?=
bench-routing: ARGS ?= --live
SMG = cargo run --quiet --bin smg --

.PHONY: help setup run test soak check deny fuzz sbom package golden gen bench bench-streams bench-routing clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## installs what is missing: Debian packages, Python environments, a tiny model
	@scripts/setup

run: setup ## the gateway in front of two sample workers; ENGINE=mlx: of a real engine
	@ENGINE=$(ENGINE) scripts/run

check: ## format and lints only
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

test: setup check ## everything: format, lints, unit, plan, binary, SDK and real-engine tests
	@scripts/test

soak: ## the chaos suite for half an hour; SOAK=8h for longer
	SMG_SOAK=$(SOAK) cargo test --test chaos -- --nocapture --test-threads 1

deny: ## licences, bans and sources of every dependency; advisories where they can be fetched
	@scripts/deny

fuzz: ## every fuzz target for a minute; SECONDS_EACH=600 for longer, TARGET=body for one
	@SECONDS_EACH=$(SECONDS_EACH) TARGET=$(TARGET) scripts/fuzz --install

sbom: ## what the binary is made of, as build/smg.cdx.json (CycloneDX)
	@mkdir -p build
	@scripts/sbom build/smg.cdx.json

package: setup ## the .deb and the .rpm, as build/packages/
	@scripts/package

golden: ## rewrites the golden files under fixtures/ from what the code says now
	UPDATE_GOLDEN=1 cargo test

gen: ## rewrites what is generated from the types: schemas/, man/, docs/CONFIG.md
	@mkdir -p build schemas man docs
	$(SMG) schema > build/smg.schema.json && mv build/smg.schema.json schemas/
	$(SMG) man --dir man
	$(SMG) man --markdown > build/CONFIG.md && mv build/CONFIG.md docs/

bench: ## measures the gateway beside nginx and a bare proxy; takes minutes, needs a quiet machine
	benches/run

bench-streams: ## holds 10,000 concurrent streams and says what each costs; ARGS='--help' shows options
	benches/streams $(ARGS)

bench-routing: ## compares routing policies, simulated and through the gateway; ARGS='--help' shows options
	cargo build --quiet --profile bench-routing --bin smg
	cargo bench --quiet --profile bench-routing --bench routing -- $(ARGS)

clean: ## removes target/ and build/
	cargo clean
	rm -rf build
