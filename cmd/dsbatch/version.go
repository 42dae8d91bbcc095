package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version",
		Action: func(c *cli.Context) error {
			mpi := "without MPI"
			if linkedWithMPI {
				mpi = "with MPI"
			}
			_, err := fmt.Fprintf(c.App.Writer, "dsbatch %s, %s, %s/%s, %s\n", version, runtime.Version(),
				runtime.GOOS, runtime.GOARCH, mpi)
			return err
		},
	}
}
