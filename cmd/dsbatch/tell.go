package main

import (
	"fmt"
	"io"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// tell says how a finished job went, and why the first of the rows set aside was: often all others have the same reason.
func tell(w io.Writer, job *config.Job, s results.Summary) {
	fmt.Fprintf(w, "dsbatch: %d %s committed in %d %s under %s", s.Rows, plural("row", s.Rows), s.Chunks, plural("part", s.Chunks), job.Output)
	if s.Bad > 0 {
		fmt.Fprintf(w, "; %d of them set aside, with their reasons in %s/_dsbatch/bad-rows.parquet (dsbatch head --bad shows them)", s.Bad, job.Output)
		if first := s.FirstBad; first != nil {
			fmt.Fprintf(w, ", the first (row %d): %s", first.Row, clip(oneLine.Replace(first.Error), 300))
		}
	}
	fmt.Fprintln(w)
}

func plural[N int | int64](word string, n N) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
