package results

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// process says who holds a lease, so that people can find it and the same host can tell whether it lives.
type process struct {
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Job     string `json:"slurm_job,omitempty"`
	Boot    string `json:"boot,omitempty"`          // the kernel's boot id
	Space   string `json:"pid_namespace,omitempty"` // where PID means something
	Started string `json:"started,omitempty"`       // ticks after boot, so that a PID used again is another process
	Nonce   int64  `json:"nonce"`                   // tells outputs of one process apart

	dead func(process) bool // nil: ask the operating system
}

var nonces atomic.Int64

func thisProcess() *process {
	host, _ := os.Hostname() // only for people; empty will do
	p := &process{Host: host, PID: os.Getpid(), Job: os.Getenv("SLURM_JOB_ID"), Nonce: nonces.Add(1)}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	p.Boot = strings.TrimSpace(string(boot))
	p.Space, _ = os.Readlink("/proc/self/ns/pid")
	p.Started, _, _ = processStat(p.PID)
	return p
}

func (p process) String() string {
	s := fmt.Sprintf("process %d on host %s", p.PID, p.Host)
	if p.Job != "" {
		s += ", Slurm job " + p.Job
	}
	return s
}

// knownDead is true only where it is certain that other does not run any more: it ran under this very kernel and this
// numbering of processes, and its process is gone. Anywhere else the beat of its lease has to tell.
func (p process) knownDead(other process) bool {
	if p.dead != nil {
		return p.dead(other)
	}
	if p.Boot == "" || p.Space == "" || other.Started == "" || p.Boot != other.Boot || p.Space != other.Space {
		return false
	}
	if other.PID <= 0 {
		return false
	}
	if errors.Is(syscall.Kill(other.PID, 0), syscall.ESRCH) { // /proc may hide the processes of others, this does not
		return true
	}
	started, running, err := processStat(other.PID)
	return err == nil && (!running || started != other.Started)
}

// processStat reads /proc: when a process started, and whether it still runs (a zombie does not).
func processStat(pid int) (started string, running bool, err error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", false, err
	}
	// "pid (name) state ppid …": the name may hold anything, a parenthesis too
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const stateField, startedField = 0, 19 // fields 3 and 22 of proc(5)
	if len(fields) <= startedField {
		return "", false, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	return fields[startedField], !strings.ContainsAny(fields[stateField], "ZX"), nil
}
