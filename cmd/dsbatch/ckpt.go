package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/ckpt"
)

func ckptCommand() *cli.Command {
	return &cli.Command{
		Name: "ckpt", Usage: "look at model checkpoints",
		Subcommands: []*cli.Command{{
			Name: "inspect", ArgsUsage: "MODEL", Usage: "layers, experts, types, bytes, and the parameters that a token uses",
			OnUsageError: func(c *cli.Context, err error, _ bool) error { return usage(c, err) },
			Flags:        []cli.Flag{&cli.StringFlag{Name: "tag", Usage: "`NAME` of the step inside a DeepSpeed folder"}},
			Action: func(c *cli.Context) error {
				path, err := onlyArgument(c, "MODEL")
				if err != nil {
					return err
				}
				m, err := ckpt.Open(path, ckpt.Options{Tag: c.String("tag")})
				if err != nil {
					return err
				}
				r, err := ckpt.Inspect(m)
				if err == nil {
					tellCheckpoint(c.App.Writer, r)
				}
				if closeErr := m.Close(); err == nil {
					err = closeErr
				}
				return err
			},
		}},
	}
}

func tellCheckpoint(w io.Writer, r ckpt.Report) {
	fmt.Fprintf(w, "format       %s, %d files of %v\n", r.Format, r.Files, size(r.FileBytes))
	fmt.Fprintf(w, "config       %s\n", r.Config)
	fmt.Fprintf(w, "parameters   %d in %d tensors of %v\n", r.Parameters, r.Tensors, size(r.Bytes))
	if r.Active > 0 {
		fmt.Fprintf(w, "active       %d a token (%.1f %%)\n", r.Active, 100*float64(r.Active)/float64(r.Parameters))
	}
	for _, d := range r.DTypes {
		fmt.Fprintf(w, "%-12v %d tensors, %v\n", d.DType, d.Tensors, size(d.Bytes))
	}
	fmt.Fprintf(w, "layers       %d; experts a layer: %s\n", len(r.Layers), r.Experts())
	if r.TopK > 0 {
		fmt.Fprintf(w, "top-k        %d\n", r.TopK)
	}
	for _, l := range r.Layers {
		kind := "dense"
		if l.Experts > 0 {
			kind = fmt.Sprintf("%d experts", l.Experts)
		}
		fmt.Fprintf(w, "layer %-6d %-12s %12d parameters, %12d active, %v\n", l.Layer, kind, l.Parameters, l.Active, size(l.Bytes))
	}
}

// size is a number of bytes for people: three digits and a binary unit.
func size(n int64) string {
	v, unit := float64(n), 0
	for v >= 1000 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.3g %s", v, [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}
