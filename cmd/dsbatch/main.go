// Command dsbatch generates and scores data sets with Mixture-of-Experts language models, as one job of many ranks.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr)) }
