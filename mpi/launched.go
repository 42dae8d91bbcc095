package mpi

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Launched tells, from the environment alone, which launcher started this process and how many ranks it started: "mpirun"
// (Open MPI), "mpiexec" (a PMI launcher such as MPICH's), "prun" (PMIx) or "srun" (Slurm). Where the number isn't told it
// is 0; where none started it, kind is empty and size 1.
func Launched() (kind string, size int) { return launched(os.LookupEnv) }

func launched(env func(string) (string, bool)) (kind string, size int) {
	number := func(names ...string) int {
		for _, name := range names {
			if s, ok := env(name); ok {
				if n, err := strconv.Atoi(s); err == nil && n > 0 {
					return n
				}
			}
		}
		return 0
	}
	has := func(name string) bool { _, ok := env(name); return ok }
	switch {
	case has("OMPI_COMM_WORLD_SIZE"):
		return "mpirun", number("OMPI_COMM_WORLD_SIZE")
	case has("SLURM_STEP_NUM_TASKS") && has("SLURM_PROCID"): // set by srun, not in the batch script around it
		return "srun", number("SLURM_STEP_NUM_TASKS")
	case has("PMI_RANK"):
		return "mpiexec", number("PMI_SIZE")
	case has("PMIX_RANK"):
		return "prun", number("PMIX_SIZE", "PRTE_NUM_PROCS")
	}
	return "", 1
}

// remedy is what to do where the library doesn't see the ranks that the launcher started.
func remedy(kind string) string {
	if kind == "srun" {
		return "start it with srun --mpi=pmix (srun --mpi=list shows what this Slurm offers)"
	}
	return "start it with the mpirun of the MPI library that it is linked with"
}

// prepare sets what the MPI library reads from the environment when it starts, unless the user has set it: ranks that
// wait give their core away where there are no more cores than ranks, and the library leaves Go's signals alone.
func prepare() error {
	const yield = "OMPI_MCA_mpi_yield_when_idle"
	set := map[string]string{"UCX_ERROR_SIGNALS": ""}
	if localRanks(os.LookupEnv) >= runtime.NumCPU() {
		set[yield] = "1"
	}
	for name, value := range set {
		if _, ok := os.LookupEnv(name); ok {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// localRanks returns how many ranks the launcher started on this host, 1 where it doesn't say.
func localRanks(env func(string) (string, bool)) int {
	for _, name := range []string{"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_TASKS_PER_NODE"} {
		if s, ok := env(name); ok {
			s, _, _ = strings.Cut(s, "(") // Slurm: 2(x3),1
			s, _, _ = strings.Cut(s, ",")
			if n, err := strconv.Atoi(s); err == nil {
				return n
			}
		}
	}
	return 1
}
