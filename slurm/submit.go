package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Submitted is a job in Slurm's queue.
type Submitted struct {
	Job int
	Log string // what the job prints goes here, once it runs
}

// Submit checks the script and hands it to sbatch, which queues it.
func (s *Script) Submit(ctx context.Context) (Submitted, error) {
	if err := s.Check(); err != nil {
		return Submitted{}, err
	}
	c := exec.CommandContext(ctx, "sbatch", "--parsable")
	c.Stdin = strings.NewReader(s.Text())
	var out, told bytes.Buffer
	c.Stdout, c.Stderr = &out, &told
	err := c.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return Submitted{}, fmt.Errorf("%w; type this on a login node of the cluster, or print the script with --dry-run", err)
	} else if err != nil {
		return Submitted{}, fmt.Errorf("sbatch refuses the job: %.2000s", strings.TrimSpace(told.String()))
	}
	number, _, _ := strings.Cut(strings.TrimSpace(out.String()), ";") // the cluster's name may follow
	job, err := strconv.Atoi(number)
	if err != nil {
		return Submitted{}, fmt.Errorf("sbatch does not tell the job's number: %.200q", out.String())
	}
	return Submitted{job, filepath.Join(s.Log, strings.Replace(logName, "%j", number, 1))}, nil
}
