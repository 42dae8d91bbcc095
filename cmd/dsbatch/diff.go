package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/io/results"
)

func diffCommand() *cli.Command {
	var o results.DiffOptions
	return &cli.Command{
		Name: "diff", ArgsUsage: "OUTPUT1 OUTPUT2", Usage: "compare two outputs row by row, however they are cut into parts",
		Description: "EXIT STATUS\n0 the same; 65 different, or made with unlike --n; 66 no such output; 64 bad usage.",
		Flags: []cli.Flag{
			&cli.Float64Flag{Name: "bound", Destination: &o.Bound, Usage: "how far log-probabilities and other floats may differ, relative to the larger of 1 and themselves: `X` (0: not a bit)"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 2 {
				return usageErrorf("dsbatch diff takes two outputs, and got %d arguments", c.Args().Len())
			}
			if !(o.Bound >= 0) {
				return usageErrorf("--bound %v: it must be 0 or above", o.Bound)
			}
			for _, dir := range c.Args().Slice() {
				if err := isOutput(dir); err != nil {
					return err
				}
			}
			r, err := results.Diff(c.Context, c.Args().Get(0), c.Args().Get(1), o)
			if err != nil {
				return err
			}
			tellDiff(c.App.Writer, r)
			if !r.Same() {
				return errNotWhole
			}
			return nil
		},
	}
}

func tellDiff(w io.Writer, r results.DiffReport) {
	for _, c := range r.Columns {
		switch {
		case c.Differs > 0:
			apart := "" // texts and ids are alike or not
			if c.Largest > 0 {
				apart = fmt.Sprintf(", by up to %.3g", c.Largest)
			}
			fmt.Fprintf(w, "%s: %d of %d records differ%s\n", c.Name, c.Differs, r.Records, apart)
			for _, e := range c.Examples {
				fmt.Fprintln(w, "   ", oneLine.Replace(e))
			}
		case c.Largest > 0:
			fmt.Fprintf(w, "%s: within the bound, by up to %.3g\n", c.Name, c.Largest)
		}
	}
	for i, columns := range [][]string{r.ColumnsA, r.ColumnsB} {
		if len(columns) > 0 {
			fmt.Fprintf(w, "only OUTPUT%d has the columns %v\n", i+1, columns)
		}
	}
	verdict := "they differ"
	if r.Same() {
		verdict = "the same"
		if slices.ContainsFunc(r.Columns, func(c results.ColumnDiff) bool { return c.Largest > 0 }) {
			verdict = "the same within the bound"
		}
	}
	fmt.Fprintf(w, "%d records compared, %d only in OUTPUT1, %d only in OUTPUT2: %s\n", r.Records, r.OnlyA, r.OnlyB, verdict)
}
