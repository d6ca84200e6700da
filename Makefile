# Two commands do everything, set-up included: `make demo` and `make test`.
SHELL := /bin/sh
.DELETE_ON_ERROR:
SUITE ?= forky
node := node_modules/.bin/node
vitest := $(node) node_modules/vitest/vitest.mjs run
sources := $(shell find src proto -name gen -prune -o -type f -print)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## install the Debian and npm packages the project needs (no-op when present)
	@hack/setup

src/gen/.stamp: package-lock.json hack/generate hack/criu-descriptors.ts src/criu/kinds.ts $(shell find proto -type f) | setup
	hack/generate
	@touch $@

.PHONY: build
build: dist/gantry.mjs ## bundle the program; leaves bin/gantry

dist/gantry.mjs: src/gen/.stamp hack/bundle.ts $(sources) | setup
	$(node) hack/bundle.ts

.PHONY: root
root: setup ## make the lab's root folder and images (cached in .lab)
	hack/lab root --suite $(SUITE)

.PHONY: demo
demo: build root ## a Redis with an open connection moves between two nodes and back
	$(node) hack/demo.ts

.PHONY: lint
lint: src/gen/.stamp ## types, format and lint, shell scripts: zero warnings
	$(node) node_modules/typescript/bin/tsc
	node_modules/.bin/biome check --error-on-warnings src hack test vitest.config.ts package.json tsconfig.json biome.json
	shellcheck hack/setup hack/generate hack/lab bin/gantry $(shell find src hack test -name '*.sh')

.PHONY: test-unit
test-unit: src/gen/.stamp ## only the tests that need neither root nor a lab
	$(vitest) --project unit

.PHONY: test
test: build lint root ## every test: unit, integration, faults, end to end
	# Only the last of the lab's tests need the other suites' roots: they are made meanwhile.
	(for suite in bookworm trixie; do hack/lab root --suite $$suite || exit 1; done) >.lab/roots.log 2>&1 & \
	roots=$$!; status=0; $(vitest) || status=$$?; wait $$roots || cat .lab/roots.log; exit $$status

.PHONY: test-crashes
test-crashes: build root ## kill agents, relay and containerd at every moment of a migration and of a swap, and what else make test leaves out (25 minutes)
	GANTRY_ALL_MOMENTS=1 $(vitest) --project faults test/faults/source-crashes.test.ts test/faults/target-crashes.test.ts test/faults/runtime-crashes.test.ts test/faults/surgery-crashes.test.ts test/faults/halted-agents.test.ts test/faults/checkpoint-errors.test.ts test/faults/shortages.test.ts test/faults/cancel.test.ts test/faults/partition.test.ts
	GANTRY_ALL_MOMENTS=1 $(vitest) --project integration test/integration/archive.test.ts test/integration/checkpoint-options.test.ts test/integration/programs.test.ts test/integration/cri-checkpoint.test.ts test/integration/crun.test.ts
	GANTRY_ALL_MOMENTS=1 $(vitest) --project e2e test/e2e/twenty-moves.test.ts

.PHONY: bench-relay
bench-relay: build root ## the relay beside the direct socket, a splice and a pipe, on a real containerd (8 minutes)
	$(node) test/bench/relay/main.ts $(ARGS)

.PHONY: bench-checkpoint
bench-checkpoint: build root ## checkpoints and restores beside raw runc and containerd (10 minutes)
	$(node) test/bench/checkpoint/main.ts $(ARGS)

.PHONY: bench-surgery
bench-surgery: build root ## change-over of a swap beside stop and start through CRI, and the relay with slots (3 minutes)
	$(node) test/bench/surgery/main.ts $(ARGS)

.PHONY: soak
soak: build root ## a kubelet's load while relay and containerd are killed again and again (10 minutes)
	$(node) test/soak/soak.ts $(ARGS)

.PHONY: clean
clean: ## undo everything: labs, cached roots, packages, what was built
	-[ ! -x $(node) ] || hack/lab down --all
	rm -rf --one-file-system .lab dist out node_modules src/gen
