package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// Submit checks the script and hands it to sbatch, which queues it. The folder of the log is made for it, since Slurm makes
// none, and taken away again where the job is not queued.
func (s *Script) Submit(ctx context.Context) (Submitted, error) {
	if err := s.Check(); err != nil {
		return Submitted{}, err
	}
	made, err := makeFolder(s.Log)
	out := ""
	if err == nil {
		out, err = s.queue(ctx)
	}
	if err != nil {
		for _, folder := range made {
			_ = os.Remove(folder) // only where nobody has put anything into it
		}
		return Submitted{}, err
	}
	number, _, _ := strings.Cut(strings.TrimSpace(out), ";") // the cluster's name may follow
	job, err := strconv.Atoi(number)
	if err != nil {
		return Submitted{}, fmt.Errorf("sbatch does not tell the job's number: %.200q", out)
	}
	return Submitted{job, filepath.Join(s.Log, strings.Replace(logName, "%j", number, 1))}, nil
}

// makeFolder makes a folder and those above it, and lists those that were not there, the deepest first.
func makeFolder(folder string) (made []string, err error) {
	for above := folder; ; above = filepath.Dir(above) {
		if _, err := os.Stat(above); !errors.Is(err, fs.ErrNotExist) {
			return made, os.MkdirAll(folder, 0o777)
		}
		made = append(made, above)
	}
}

// queue hands the script to sbatch and returns what that prints.
func (s *Script) queue(ctx context.Context) (string, error) {
	c := exec.CommandContext(ctx, "sbatch", "--parsable")
	c.Stdin = strings.NewReader(s.Text())
	var out, told bytes.Buffer
	c.Stdout, c.Stderr = &out, &told
	err := c.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%w; type this on a login node of the cluster, or print the script with --dry-run", err)
	} else if err != nil {
		return "", fmt.Errorf("sbatch refuses the job: %.2000s", strings.TrimSpace(told.String()))
	}
	return out.String(), nil
}
