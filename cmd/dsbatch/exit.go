package main

import (
	"errors"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/benchmarks"
	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
	"github.com/dsbatch/dsbatch/model/store"
)

// Exit statuses; those from 64 on are sysexits.h's.
const (
	statusDone    = 0
	statusFailed  = 1
	statusBadRows = 3
	statusUsage   = 64
	statusData    = 65
	statusNoInput = 66
	statusStopped = 75
	statusConfig  = 78
)

// errBadRows ends a run in which every row is committed, some of them set aside.
var errBadRows = errors.New("rows were set aside")

// statusOf is the exit status that an error stands for.
func statusOf(err error) int {
	var usage *usageError
	var help cli.ExitCoder // of the command that is no help topic
	var setting *config.Error
	var size *comm.SizeError
	var mismatch *results.MismatchError
	var figures *benchmarks.FiguresError
	switch {
	case err == nil:
		return statusDone
	case errors.Is(err, errBadRows):
		return statusBadRows
	case errors.Is(err, engine.ErrStopped), errors.Is(err, errAsked):
		return statusStopped
	case errors.As(err, &usage), errors.As(err, &help), errors.As(err, &figures):
		return statusUsage
	case errors.As(err, &setting) && setting.File == "" && !errors.Is(err, engine.ErrRefused):
		return statusUsage
	case errors.As(err, &setting), errors.As(err, &size), errors.As(err, &mismatch),
		errors.Is(err, results.ErrUnusable), errors.Is(err, engine.ErrRefused), errors.Is(err, comm.ErrUnlike),
		errors.Is(err, model.ErrConfig), errors.Is(err, model.ErrTensor), errors.Is(err, policies.ErrInjection),
		errors.Is(err, ckpt.ErrDamaged), errors.Is(err, ckpt.ErrUnsupported), errors.Is(err, ckpt.ErrMismatch),
		errors.Is(err, ckpt.ErrTag), errors.Is(err, ckpt.ErrUnknown), errors.Is(err, ckpt.ErrExists), errors.Is(err, store.ErrLayout):
		return statusConfig
	case errors.Is(err, errNotWhole), errors.Is(err, results.ErrDamaged), errors.Is(err, results.ErrUnlike), errors.Is(err, dataset.ErrDamaged), errors.Is(err, dataset.ErrColumn):
		return statusData
	case errors.Is(err, dataset.ErrMissing), errors.Is(err, fs.ErrNotExist):
		return statusNoInput
	case errors.Is(err, dataset.ErrUsage), errors.Is(err, results.ErrColumns):
		return statusUsage
	}
	return statusFailed
}
