package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
)

func ckptCommand() *cli.Command {
	return &cli.Command{
		Name: "ckpt", Usage: "look at model checkpoints, and rewrite them",
		Subcommands: []*cli.Command{ckptVerifyCommand(), ckptConvertCommand(), ckptReshardCommand(), ckptQuantizeCommand(), {
			Name: "inspect", ArgsUsage: "MODEL", Usage: "layers, experts, types, bytes, and the parameters that a token uses",
			Flags: []cli.Flag{
				tagFlag(),
				&cli.StringSliceFlag{Name: "injection-policy-tuple", Usage: "`LINEARS` of a block that no policy is for, as self_attn.o_proj,mlp.down_proj: what is understood of it"},
			},
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
				if linears := c.StringSlice("injection-policy-tuple"); err == nil && len(linears) > 0 {
					err = tellBlock(c.App.Writer, m, linears)
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
	fmt.Fprintf(w, "format       %s, %d %s of %v\n", r.Format, r.Files, plural("file", r.Files), config.Bytes(r.FileBytes).About())
	fmt.Fprintf(w, "config       %s\n", r.Config)
	fmt.Fprintf(w, "parameters   %d in %d tensors of %v\n", r.Parameters, r.Tensors, config.Bytes(r.Bytes).About())
	if r.Active > 0 {
		fmt.Fprintf(w, "active       %d a token (%.1f %%)\n", r.Active, 100*float64(r.Active)/float64(r.Parameters))
	}
	for _, d := range r.DTypes {
		fmt.Fprintf(w, "%-12v %d tensors, %v\n", d.DType, d.Tensors, config.Bytes(d.Bytes).About())
	}
	fmt.Fprintf(w, "layers       %d; experts a layer: %s\n", len(r.Layers), cmp.Or(r.Experts(), "none"))
	if r.TopK > 0 {
		fmt.Fprintf(w, "top-k        %d\n", r.TopK)
	}
	for _, l := range r.Layers {
		kind := "dense"
		if l.Experts > 0 {
			kind = fmt.Sprintf("%d experts", l.Experts)
		}
		fmt.Fprintf(w, "layer %-6d %-12s %12d parameters, %12d active, %v\n", l.Layer, kind, l.Parameters, l.Active, config.Bytes(l.Bytes).About())
	}
}

func tellBlock(w io.Writer, m *ckpt.Checkpoint, linears []string) error {
	facts := model.NewFacts(m.Config().Source, m.Config().Values)
	if known, err := policies.Find(facts); err == nil {
		fmt.Fprintf(w, "understood   %s, a family that has a policy\n", strings.Join(known.Architectures, ", "))
		return nil
	}
	y, err := policies.Inject(facts, m, linears, false)
	if err != nil {
		return err
	}
	for _, part := range y.Understood {
		fmt.Fprintf(w, "understood   %s\n", part)
	}
	for _, part := range y.Assumed {
		fmt.Fprintf(w, "assumed      %s\n", part)
	}
	return nil
}
