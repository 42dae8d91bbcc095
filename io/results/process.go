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

	fate func(process) fate // nil: ask the operating system
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

// fate is what is known of a process.
type fate int

const (
	unknown fate = iota // it runs elsewhere: only what it writes can tell
	alive               // for certain: it ran under this very kernel and this numbering of processes, and is there
	asleep              // likewise, and stopped (SIGSTOP, a debugger)
	dead                // likewise, and gone
)

// fateOf is what this process can know of other, without anything that other does.
func (p process) fateOf(other process) fate {
	if p.fate != nil {
		return p.fate(other)
	}
	if p.Boot == "" || p.Space == "" || other.Started == "" || p.Boot != other.Boot || p.Space != other.Space || other.PID <= 0 {
		return unknown
	}
	if errors.Is(syscall.Kill(other.PID, 0), syscall.ESRCH) { // /proc may hide the processes of others, this does not
		return dead
	}
	started, state, err := processStat(other.PID)
	switch {
	case err != nil:
		return unknown
	case started != other.Started || strings.ContainsAny(state, "ZX"): // a zombie does not run
		return dead
	case strings.ContainsAny(state, "Tt"):
		return asleep
	}
	return alive
}

// processStat reads /proc: when a process started, and the letter of its state.
func processStat(pid int) (started, state string, err error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", "", err
	}
	// "pid (name) state ppid …": the name may hold anything, a parenthesis too
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const stateField, startedField = 0, 19 // fields 3 and 22 of proc(5)
	if len(fields) <= startedField {
		return "", "", fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	return fields[startedField], fields[stateField], nil
}
