# The two commands of this repository. Both install what is missing on Debian and Ubuntu, and say
# what to install elsewhere (the browser of the tests: on Ubuntu too).

.PHONY: help run test

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: ## the shop: all three nodes, until Ctrl-C
	@exec sh scripts/run.sh

test: ## format, lints, release binary, all tests and a minute of torture
	@exec sh scripts/test.sh
