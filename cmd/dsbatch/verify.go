package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/io/results"
)

// errNotWhole ends verify and diff when they find a difference; they have told which.
var errNotWhole = errors.New("not the same")

func verifyCommand() *cli.Command {
	var o results.VerifyOptions
	return &cli.Command{
		Name: "verify", ArgsUsage: "OUTPUT", Usage: "check that OUTPUT holds every input row once, undamaged",
		Description: "EXIT STATUS\n0 whole; 65 rows missing, doubled or damaged; 66 no such output; 64 bad usage.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "readers", Destination: &o.Readers, Usage: "parts read at once, `N` in 1..256 (0: one a core)"},
			&cli.BoolFlag{Name: "quick", Destination: &o.Quick, Usage: "trust the digests of the commit lines, read no part"},
		},
		Action: func(c *cli.Context) error {
			dir, err := outputArgument(c)
			if err != nil {
				return err
			}
			if o.Readers < 0 || o.Readers > 256 {
				return usageErrorf("--readers %d: from 1 to 256 parts can be read at once", o.Readers)
			}
			r, err := results.Verify(c.Context, dir, o)
			if err != nil {
				return err
			}
			for _, p := range r.Problems {
				fmt.Fprintln(c.App.Writer, p)
			}
			fmt.Fprintf(c.App.Writer, "%d of %d %s in %d %s, %d of them set aside", r.Rows, r.Expected, plural("row", r.Expected), r.Chunks, plural("part", r.Chunks), r.Bad)
			if r.Whole() {
				fmt.Fprintln(c.App.Writer, "; whole")
				return nil
			}
			if !r.Finished {
				fmt.Fprint(c.App.Writer, "; not finished: start the same command again to go on")
			}
			fmt.Fprintln(c.App.Writer)
			return errNotWhole
		},
	}
}
