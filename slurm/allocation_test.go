package slurm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAllocation(t *testing.T) {
	batch := map[string]string{"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
		"SLURM_NODEID": "0", "SLURM_RESTART_COUNT": "2"}
	step := map[string]string{"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4",
		"SLURM_STEP_NODELIST": "n[2,4]", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
	for name, c := range map[string]struct {
		env  map[string]string
		want *Allocation
	}{
		"no Slurm": {nil, nil},
		"a batch script": {batch, &Allocation{Job: 17, Step: -1, Nodes: []string{"n1", "n2"}, Tasks: 4, Rank: -1, Local: -1, Node: -1,
			Restarts: 2}},
		"a step on part of the job's nodes": {step, &Allocation{Job: 17, Nodes: []string{"n2", "n4"}, Tasks: 4, Rank: 3, Local: 1, Node: 1}},
	} {
		got, err := allocation(func(k string) (string, bool) { v, ok := c.env[k]; return v, ok })
		if err != nil || cmp.Diff(c.want, got) != "" {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(c.want, got))
		}
	}
	for _, damaged := range [][2]string{{"SLURM_JOB_ID", "x"}, {"SLURM_PROCID", "-1"}, {"SLURM_STEP_NODELIST", "n[1-"}} {
		got, err := allocation(func(k string) (string, bool) {
			if k == damaged[0] {
				return damaged[1], true
			}
			v, ok := step[k]
			return v, ok
		})
		if err == nil {
			t.Errorf("%s=%q accepted as %+v", damaged[0], damaged[1], got)
		}
	}
}
