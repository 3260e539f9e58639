# Commands for users and developers. `make run` and `make test` install what is missing on Debian and
# Ubuntu; the other targets expect the tools that CONTRIBUTING.md lists.

.PHONY: help run test check format lint house docs event-schemas openapi test-one test-shard torture bench deny typos
.DEFAULT_GOAL := help

SHARD ?= 1
SHARDS ?= 4
SECONDS ?= 60
SEED ?= 7

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: ## start the shop: all three nodes in one process, until Ctrl-C
	@exec sh scripts/run.sh

test: ## run every check and test, and a minute of torture
	@exec sh scripts/test.sh

check: ## inner loop: format, house rules, type check of all targets
	cargo fmt --all --check
	@sh scripts/house.sh
	cargo check --workspace --all-targets --locked

format: ## check the formatting
	cargo fmt --all --check

lint: ## run clippy with warnings as errors
	@exec sh scripts/lint.sh

house: ## check the map, file and function sizes, and the language
	@exec sh scripts/house.sh

docs: ## build the API documentation of all crates; warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

event-schemas: ## write the JSON Schemas of the events to docs/events
	SHOP_UPDATE_EVENT_SCHEMAS=1 cargo test --locked -p shop-tests --test it -- committed_schemas_equal

openapi: ## write the OpenAPI documents of the nodes to docs/openapi
	SHOP_UPDATE_OPENAPI=1 cargo test --locked -p shop-tests --test it -- openapi::committed_documents

test-one: ## run the tests whose names contain T: make test-one T=orders::
	@exec sh scripts/test-one.sh "$(T)"

test-shard: ## run shard SHARD of SHARDS of the tests, as CI does
	@exec sh scripts/test-shard.sh $(SHARD) $(SHARDS)

torture: ## run the torture test for SECONDS with SEED
	cargo run --release --locked --bin torture -- --seconds $(SECONDS) --seed $(SEED)

bench: ## measure the shop beside its limits (15 minutes; needs wrk, postgresql, rabbitmq-server)
	cargo run --release --locked --bin bench

deny: ## check licences, duplicate versions, sources and advisories (needs cargo-deny)
	@exec sh scripts/deny.sh

typos: ## check the spelling (needs typos-cli)
	typos
