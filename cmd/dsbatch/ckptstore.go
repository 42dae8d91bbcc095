package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model/store"
)

func tagFlag() cli.Flag {
	return &cli.StringFlag{Name: "tag", Usage: "`NAME` of the step inside a DeepSpeed folder"}
}

func ckptVerifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", ArgsUsage: "MODEL", Usage: "read a checkpoint whole: checksums, sizes, shapes, types, every number",
		Description: "One line for each fault, with its file and tensor.\n\nEXIT STATUS\n0 whole; 65 damaged, or its config contradicts its tensors; 66 no such file; 78 no checkpoint of any known kind; 64 bad usage.",
		Flags:       []cli.Flag{tagFlag()},
		Action: func(c *cli.Context) error {
			path, err := onlyArgument(c, "MODEL")
			if err != nil {
				return err
			}
			ctx, end := untilAsked(c.Context)
			defer end()
			r, err := store.Verify(ctx, path, ckpt.Options{Tag: c.String("tag")}, nil)
			if err != nil {
				return asked(ctx, err)
			}
			for _, fault := range r.Faults {
				fmt.Fprintln(c.App.Writer, fault)
			}
			if r.Unknown != nil {
				fmt.Fprintf(c.App.Writer, "the tensors were not compared with the config: %v\n", r.Unknown)
			}
			fmt.Fprintf(c.App.Writer, "%d %s in %d %s, %v read, %d NaN, %d infinities; ", r.Tensors, plural("tensor", r.Tensors), r.Files, plural("file", r.Files), config.Bytes(r.Bytes).About(), r.NaN, r.Inf)
			if n := len(r.Faults); n > 0 {
				fmt.Fprintf(c.App.Writer, "%d %s\n", n, plural("fault", n))
				return errNotWhole
			}
			fmt.Fprintln(c.App.Writer, "whole")
			return nil
		},
	}
}

func ckptConvertCommand() *cli.Command {
	return &cli.Command{
		Name: "convert", ArgsUsage: "MODEL", Usage: "write any checkpoint that dsbatch reads as safetensors",
		Description: "Without --dtype every output has the same bits from either. OUT must not be there; it appears when all of it is written.\n\n" + writeStatus,
		Flags: []cli.Flag{tagFlag(), toFlag(),
			&cli.StringFlag{Name: "dtype", Usage: "`TYPE` that the weights of linear operations are rounded to, as run --dtype does: fp32, bf16 or fp16 (not given: every bit stays)"}},
		Action: func(c *cli.Context) error {
			dtype, err := writtenType(c.String("dtype"))
			if err != nil {
				return err
			}
			return rewrite(c, func(ctx context.Context, m *ckpt.Checkpoint, to string) error {
				return store.Convert(ctx, m, to, dtype)
			})
		},
	}
}

func ckptReshardCommand() *cli.Command {
	return &cli.Command{
		Name: "reshard", ArgsUsage: "MODEL", Usage: "write a checkpoint as the slices that ranks hold, with an index",
		Description: "A start with the same --tp and --ep reads its own files alone; one with others works too. Every output has the same bits from either checkpoint. OUT must not be there; it appears when all of it is written.\n\n" + writeStatus,
		Flags: []cli.Flag{tagFlag(), toFlag(),
			&cli.IntFlag{Name: "tp", Value: 1, Usage: "`N` slices of attention, dense MLPs and the output embedding"},
			&cli.IntFlag{Name: "ep", Value: 1, Usage: "`M` parts of the experts"}},
		Action: func(c *cli.Context) error {
			tp, ep := c.Int("tp"), c.Int("ep")
			if tp < 1 || ep < 1 {
				return usageErrorf("--tp %d --ep %d: 1 or more can be", tp, ep)
			}
			return rewrite(c, func(ctx context.Context, m *ckpt.Checkpoint, to string) error {
				return store.Reshard(ctx, m, to, tp, ep)
			})
		},
	}
}

func ckptQuantizeCommand() *cli.Command {
	return &cli.Command{
		Name: "quantize", ArgsUsage: "MODEL", Usage: "write a checkpoint in int8, as run --dtype int8 computes with it",
		Description: "The weights of linear operations in 8 bits, with a scale for each of their outputs: about half of bfloat16's bytes. With --tp 1 and --es 1 outputs have the bits of run --dtype int8 on MODEL. OUT must not be there; it appears when all of it is written.\n\n" + writeStatus,
		Flags:       []cli.Flag{tagFlag(), toFlag()},
		Action:      func(c *cli.Context) error { return rewrite(c, store.Quantize) },
	}
}

const writeStatus = "EXIT STATUS\n0 written; 78 a checkpoint that cannot be used, or OUT is there already; 66 no such model; 75 stopped by a signal, nothing written; 64 bad usage; 1 OUT cannot be written."

func toFlag() cli.Flag {
	return &cli.StringFlag{Name: "to", Usage: "`OUT`, the folder to write, which must not be there", Required: false}
}

// rewrite opens the checkpoint of a command and has it written to --to.
func rewrite(c *cli.Context, write func(ctx context.Context, m *ckpt.Checkpoint, to string) error) error {
	path, err := onlyArgument(c, "MODEL")
	if err != nil {
		return err
	}
	to := c.String("to")
	if to == "" {
		return usageErrorf("%s needs --to, the folder to write", c.Command.HelpName)
	}
	m, err := ckpt.Open(path, ckpt.Options{Tag: c.String("tag")})
	if err != nil {
		return err
	}
	ctx, end := untilAsked(c.Context)
	defer end()
	err = write(ctx, m, to)
	if err := errors.Join(asked(ctx, err), m.Close()); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "written: %s\n", to)
	return nil
}

// writtenType is a --dtype of ckpt convert.
func writtenType(name string) (kernels.DType, error) {
	if name == "" {
		return 0, nil
	}
	d, err := config.ParseDType(name)
	if err != nil {
		return 0, usageErrorf("--dtype %s: %v", name, err)
	}
	switch d {
	case config.FP32:
		return kernels.F32, nil
	case config.BF16:
		return kernels.BF16, nil
	case config.FP16:
		return kernels.F16, nil
	}
	return 0, usageErrorf("--dtype %s: a converted checkpoint holds fp32, bf16 or fp16", name)
}

// untilAsked is a context that ends with a signal to stop.
func untilAsked(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, stopSignals()...)
}

// errAsked is the end of a command that only a signal has ended.
var errAsked = errors.New("stopped by a signal, and nothing is left of what was being written")

// asked is err, or that a signal has ended ctx.
func asked(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errAsked
	}
	return err
}
