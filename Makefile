# demo and test are the two to know; see README.md.
GO ?= go
FUZZTIME ?= 30s
export CGO_ENABLED ?= 0

.PHONY: build demo test race bench lint fuzz lab lab-setup docs clean

build: bin/multidd

.PHONY: bin/multidd
bin/multidd:
	$(GO) build -trimpath -o bin/multidd ./cmd/multidd

# Builds the program and writes a card image to 14 virtual cards, one of them
# slow and one of them bad.
demo: build
	$(GO) run ./demo

# Everything, with the race detector (which needs cgo).
test:
	CGO_ENABLED=1 $(GO) test -race ./...

# Side by side with dd, dcfldd, dc3dd, tee, bmaptool and lbzip2, on emulated cards;
# needs root.
bench: build
	$(GO) run ./bench

lint:
	@out=$$(gofmt -l .); test -z "$$out" || { echo "not gofmt'ed: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# A short run of every fuzz target, one after the other.
fuzz:
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "fuzz $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$p; \
		done; done

# The virtual card lab: a machine with real USB cards to plug and pull.
lab-setup:
	$(GO) run ./internal/cardlab/cmd/cardlab setup

lab: build lab-setup
	MULTIDD_LAB=all $(GO) test -timeout 30m -count 1 ./internal/cardlab/... ./internal/labtest/...

# Man pages and shell completions, from the same source as --help.
docs: build
	bin/multidd man docs/man
	mkdir -p docs/completion
	for s in bash zsh fish; do bin/multidd completion $$s > docs/completion/multidd.$$s; done

clean:
	rm -rf bin .demo
