package main

import (
	"fmt"
	"io"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// tell says how a finished job went.
func tell(w io.Writer, job *config.Job, s results.Summary) {
	fmt.Fprintf(w, "dsbatch: %d rows committed in %d parts under %s", s.Rows, s.Chunks, job.Output)
	if s.Bad > 0 {
		fmt.Fprintf(w, "; %d of them set aside, with their reasons in %s/_dsbatch/bad-rows.parquet", s.Bad, job.Output)
	}
	fmt.Fprintln(w)
}
