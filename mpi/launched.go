package mpi

import (
	"os"
	"strconv"
	"strings"
)

// Launched tells, from the environment alone, which launcher started this process and how many ranks it started: "mpirun"
// (Open MPI), "mpiexec" (a PMI launcher such as MPICH's), "prun" (PMIx) or "srun" (Slurm). Where the number isn't told it
// is 0; where none started it, kind is empty and size 1.
func Launched() (kind string, size int) { return launched(os.LookupEnv) }

// LaunchedRank is the rank that the launcher gave this process, as the environment tells it; 0 where it doesn't.
func LaunchedRank() int { return launchedRank(os.LookupEnv) }

func launchedRank(env func(string) (string, bool)) int {
	for _, name := range []string{"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"} {
		if s, ok := env(name); ok {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 {
				return 0
			}
			return n
		}
	}
	return 0
}

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

// unfenced tells whether the nodes of a Slurm step leave MPI_Init without waiting for each other, as far as a rank's
// environment shows: a message from a rank that is ready may then reach one that cannot take it yet, which crashes.
//
// Open MPI holds the ranks back by two PMIx fences, the second of which carries no data. For such a fence Slurm's plugin
// has the nodes meet in a tree of TreeWidth branches, and since Slurm 21.08 that tree has no branch at all where there
// are fewer nodes than that (reverse_tree_info in its src/common/reverse_tree.c). The plugin's ring of nodes does wait.
func unfenced(env func(string) (string, bool)) bool {
	kind, _ := launched(env)
	space, _ := env("PMIX_NAMESPACE")
	nodes, _ := env("SLURM_STEP_NUM_NODES")
	fence, _ := env("SLURM_PMIX_FENCE")
	return kind == "srun" && strings.HasPrefix(space, "slurm.pmix.") && nodes != "" && nodes != "1" && fence != "ring"
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
