// Package slurm is Slurm's side of a job: the allocation that this process runs in, the moment at which that ends, and
// the batch script that asks for one and has itself requeued until the work is done.
//
// A job is what sbatch queued, a step what one srun started in it, a task one process of a step, which is a rank of
// ours. The package knows Slurm's environment, commands and script lines; it knows no model and no row.
package slurm

import (
	"fmt"
	"os"
	"strconv"
)

// Allocation is what Slurm has given to a job, as one process of it sees it.
type Allocation struct {
	Job      int
	Step     int      // -1: in no step, as the batch script is
	Nodes    []string // of the step; outside of steps, of the job
	Tasks    int      // of the step; outside of steps, what the job asked for; 0: not told
	Rank     int      // this task among them; -1 outside of steps
	Local    int      // this task among those of its node; -1 outside of steps
	Node     int      // of this task, among Nodes; -1 outside of steps
	Restarts int      // times that the job was requeued
}

// Here returns the allocation that this process runs in, from its environment alone; nil outside of Slurm.
func Here() (*Allocation, error) { return allocation(os.LookupEnv) }

func allocation(env func(string) (string, bool)) (*Allocation, error) {
	if _, ok := env("SLURM_JOB_ID"); !ok {
		return nil, nil
	}
	var wrong error
	number := func(absent int, names ...string) int {
		for _, name := range names {
			text, ok := env(name)
			if !ok {
				continue
			}
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				wrong = fmt.Errorf("%s=%q is not a number; was it set by hand?", name, text)
			}
			return n
		}
		return absent
	}
	a := &Allocation{Job: number(0, "SLURM_JOB_ID"), Step: -1, Rank: -1, Local: -1, Node: -1, Restarts: number(0, "SLURM_RESTART_COUNT")}
	nodes, _ := env("SLURM_JOB_NODELIST")
	// In a batch script SLURM_PROCID and its like are set too, for the one process that is the script.
	if _, step := env("SLURM_STEP_NUM_TASKS"); step {
		a.Step, a.Tasks = number(-1, "SLURM_STEP_ID"), number(0, "SLURM_STEP_NUM_TASKS")
		a.Rank, a.Local, a.Node = number(-1, "SLURM_PROCID"), number(-1, "SLURM_LOCALID"), number(-1, "SLURM_NODEID")
		if list, ok := env("SLURM_STEP_NODELIST"); ok {
			nodes = list
		}
	} else {
		a.Tasks = number(0, "SLURM_NTASKS", "SLURM_NPROCS")
	}
	if wrong != nil {
		return nil, wrong
	}
	var err error
	a.Nodes, err = expandHosts(nodes)
	return a, err
}
