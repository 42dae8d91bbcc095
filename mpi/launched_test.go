package mpi

import "testing"

func TestLaunched(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		kind string
		size int
	}{
		"a shell":                   {nil, "", 1},
		"Open MPI's mpirun":         {map[string]string{"OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "2", "SLURM_PROCID": "0"}, "mpirun", 4},
		"srun with PMIx":            {map[string]string{"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "3", "PMIX_RANK": "3"}, "srun", 6},
		"srun without PMI":          {map[string]string{"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "srun", 2},
		"a Slurm batch script":      {map[string]string{"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, "", 1},
		"MPICH's mpiexec":           {map[string]string{"PMI_RANK": "1", "PMI_SIZE": "3"}, "mpiexec", 3},
		"PMIx, which keeps it dark": {map[string]string{"PMIX_RANK": "0"}, "prun", 0},
		"nonsense":                  {map[string]string{"OMPI_COMM_WORLD_SIZE": "many"}, "mpirun", 0},
	} {
		env := func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }
		if kind, size := launched(env); kind != c.kind || size != c.size {
			t.Errorf("%s: %q, %d, want %q, %d", name, kind, size, c.kind, c.size)
		}
	}
}

func TestLocalRanks(t *testing.T) {
	for value, want := range map[string]int{"2(x3),1": 2, "4": 4, "7,1": 7, "": 1} {
		env := func(k string) (string, bool) { return value, k == "SLURM_TASKS_PER_NODE" }
		if n := localRanks(env); n != want {
			t.Errorf("SLURM_TASKS_PER_NODE=%q: %d, want %d", value, n, want)
		}
	}
}

func TestUnfenced(t *testing.T) {
	step := map[string]string{"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "PMIX_RANK": "0",
		"PMIX_NAMESPACE": "slurm.pmix.7.0", "SLURM_STEP_NUM_NODES": "2"}
	for name, c := range map[string]struct {
		set  map[string]string
		want bool
	}{
		"two nodes":         {nil, true},
		"with the tree":     {map[string]string{"SLURM_PMIX_FENCE": "tree"}, true},
		"with the ring":     {map[string]string{"SLURM_PMIX_FENCE": "ring"}, false},
		"one node":          {map[string]string{"SLURM_STEP_NUM_NODES": "1"}, false},
		"PMI-2":             {map[string]string{"PMIX_NAMESPACE": ""}, false},
		"mpirun in the job": {map[string]string{"OMPI_COMM_WORLD_SIZE": "4"}, false},
	} {
		env := func(k string) (string, bool) {
			if v, ok := c.set[k]; ok {
				return v, true
			}
			v, ok := step[k]
			return v, ok
		}
		if got := unfenced(env); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
