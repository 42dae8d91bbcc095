//go:build mpi

package mpi

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// remedy is what to do where the library doesn't see the ranks that the launcher started.
func remedy(kind string) string {
	if kind == "srun" {
		return "start it with srun --mpi=pmix (srun --mpi=list shows what this Slurm offers)"
	}
	return "start it with the mpirun of the MPI library that it is linked with"
}

// prepare sets what the MPI library reads from the environment when it starts, unless the user has set it: ranks that
// wait give their core away where there are no more cores than ranks, the library leaves Go's signals alone, and rows for
// another rank of the host lie in shared memory as soon as they are sent, where that has room for so many ranks (roomy).
func prepare(room func(ranks int) bool) error {
	const yield = "OMPI_MCA_mpi_yield_when_idle"
	set := map[string]string{"UCX_ERROR_SIGNALS": ""}
	local := localRanks(os.LookupEnv)
	if local >= runtime.NumCPU() {
		set[yield] = "1"
	}
	if local > 1 && room(local) {
		for _, way := range []string{"vader", "sm"} { // of Open MPI 4, and 5
			set["OMPI_MCA_btl_"+way+"_eager_limit"] = strconv.Itoa(eagerBytes)
			set["OMPI_MCA_btl_"+way+"_segment_size"] = strconv.Itoa(segmentBytes)
		}
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

// A message of Open MPI between ranks of a host that has more than 4 KiB travels only while both are in a call of the
// library: a rank that computes meanwhile keeps the other waiting. Up to eagerBytes, what a rank of a few hundred tokens
// sends another in a layer, it is in shared memory when the send has begun. Each rank has a segment of it.
const (
	eagerBytes   = 128<<10 + 1<<10
	segmentBytes = 32 << 20
)

// roomy tells whether the host's shared memory has room for the segments of so many ranks, and as much again. In containers
// it is often small, and who writes past its end is killed.
func roomy(ranks int) bool {
	var fs unix.Statfs_t
	return unix.Statfs("/dev/shm", &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= 2*uint64(ranks)*segmentBytes
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
