# dsbatch. `make demo` shows it, `make test` tests it; both install what is missing.

BIN     := bin
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=0.1.0+$(VERSION)
RANKS   ?= 2
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1

.PHONY: help demo test build lint bench fmt clean deps

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

deps: ## install what the build needs and lacks: a C compiler, Open MPI, pkg-config
	@.ci/deps

build: deps ## bin/dsbatch (needs no MPI library) and bin/dsbatch-mpi
	go build -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/dsbatch ./cmd/dsbatch
	go build -buildvcs=false -ldflags '$(LDFLAGS)' -tags mpi -o $(BIN)/dsbatch-mpi ./cmd/dsbatch

demo: build ## generate with the bundled model, as a real job of $(RANKS) MPI ranks
	rm -rf $(BIN)/demo
	mpirun --oversubscribe -n $(RANKS) $(BIN)/dsbatch run --model examples/austen-prmoe --input examples/prompts.parquet \
		--output $(BIN)/demo --temperature 0.8 --top-k 40 --max-new-tokens 48 --limit 128 --chunk-rows 16
	$(BIN)/dsbatch head $(BIN)/demo
	$(BIN)/dsbatch verify $(BIN)/demo
	@echo "the report is in $(BIN)/demo/report.html"

test: build ## every test, with and without MPI, and without C; some with the race detector, or with AMX emulated
	go vet ./...
	go vet -tags mpi ./mpi/... ./cmd/...
	.ci/test -timeout 20m ./...
	.ci/test -timeout 10m -tags mpi ./mpi/...
	.ci/test -timeout 10m -race -short -run 'Pool|Routing|Layer|Exchange' ./kernels/cpu ./moe
	CGO_CFLAGS='-O2 -DEMULATED_TILES' .ci/test -run '^Test(Row|GroupedIs|Int8|Pack|Ops)/^(generic|amx)$$/^(Linear|Grouped|MXFP4|Invariant)$$/^(Linear|Grouped)?$$' ./kernels/cpu
	CGO_ENABLED=0 .ci/test -timeout 15m ./kernels/... ./moe/... ./model/...

lint: ## golangci-lint, installed where it is missing
	@.ci/lint

bench: build ## the figures of this machine
	$(BIN)/dsbatch bench kernels
	$(BIN)/dsbatch bench engine
	$(BIN)/dsbatch bench io

fmt: ## gofmt
	gofmt -w $$(git ls-files '*.go')

clean: ## what was built
	rm -rf $(BIN)
