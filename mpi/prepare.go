//go:build mpi

package mpi

import (
	"fmt"
	"os"
	"runtime"
)

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

// warnWithoutPMI tells, once, what to do where srun started the ranks without a PMI, through which they find each other:
// Open MPI then ends the process, with a page of text that does not.
func warnWithoutPMI(env func(string) (string, bool)) {
	if kind, n := launched(env); kind != "srun" || n == 1 {
		return
	}
	for _, name := range []string{"PMIX_RANK", "PMI_RANK", "PMI_FD"} {
		if _, ok := env(name); ok {
			return
		}
	}
	if rank, _ := env("SLURM_PROCID"); rank == "0" {
		fmt.Fprintf(os.Stderr, "dsbatch: srun has started the ranks without a PMI; %s\n", remedy("srun"))
	}
}

// warnUnfenced tells, once, what to do where a rank may crash while the library starts.
func warnUnfenced(env func(string) (string, bool)) {
	if unfenced(env) && launchedRank(env) == 0 {
		fmt.Fprintln(os.Stderr, "dsbatch: a rank may crash in MPI_Init, since Slurm's nodes do not wait for each other there; "+
			"export SLURM_PMIX_FENCE=ring before srun (this warning also comes where mpi.conf has PMIxCollFence=ring)")
	}
}
