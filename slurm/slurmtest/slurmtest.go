// Package slurmtest starts a real Slurm of several pretend nodes on this machine, for a test.
package slurmtest

import (
	"bufio"
	_ "embed" // cluster.sh
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed cluster.sh
var script string

// install is what a skipped test says.
const install = "what runs under Slurm is NOT tested; on Debian, as root: apt-get install slurm-wlm slurm-wlm-basic-plugins munge"

// missing tells why no cluster can be started here; "" where one can.
func missing() string {
	if os.Getuid() != 0 {
		return "a Slurm of our own needs root: " + install
	}
	for _, program := range []string{"munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol"} {
		if _, err := exec.LookPath(program); err != nil {
			return "no " + program + " here: " + install
		}
	}
	return ""
}

// Start starts a cluster of so many nodes, n1 and on, of so many pretended cores each, in one partition, for the time of
// the test; it skips the test where that is not possible. The result is the environment that Slurm's commands need for it.
// The daemons end with the test, and with the process that runs it, whatever ends that.
func Start(t testing.TB, nodes, cpus int) (env []string) {
	t.Helper()
	if why := missing(); why != "" {
		t.Skip(why)
	}
	folder, err := os.MkdirTemp("", "slurmtest-") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", script, "cluster.sh", folder, strconv.Itoa(cpus)}
	for _, port := range freePorts(t, nodes+1) {
		args = append(args, strconv.Itoa(port))
	}
	c := exec.Command("bash", args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not the terminal's ^C: the end of its input ends it
	c.Env = environment()
	in, err1 := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	var told strings.Builder
	c.Stderr = &told
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(folder, "log", "slurmctld.log")); t.Failed() {
			t.Logf("slurmctld's log (%v):\n%s", err, log)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		c.WaitDelay = 5 * time.Second
		if err := c.Wait(); err != nil {
			t.Errorf("cluster.sh: %v\n%s", err, told.String())
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the cluster does not start: %q, %v", line, err)
	}
	return append(environment(), "SLURM_CONF="+filepath.Join(folder, "slurm.conf"))
}

// Steps is the number of a job's steps that still run on the nodes of the cluster that env is for, whatever the controller
// believes.
func Steps(t testing.TB, env []string, job string) (steps int) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		title, err1 := os.ReadFile(filepath.Join(p, "cmdline"))
		its, err2 := os.ReadFile(filepath.Join(p, "environ"))
		if err1 == nil && err2 == nil && strings.HasPrefix(string(title), "slurmstepd: ["+job+".") &&
			strings.Contains(string(its), env[len(env)-1]) {
			steps++
		}
	}
	return steps
}

// environment is this process's, without what a Slurm around the test has set.
func environment() (env []string) {
	for _, s := range os.Environ() {
		if !strings.HasPrefix(s, "SLURM") && !strings.HasPrefix(s, "SBATCH_") && !strings.HasPrefix(s, "PMI") {
			env = append(env, s)
		}
	}
	return env
}

// freePorts finds ports that nobody listens on.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		p, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(fmt.Errorf("port %q: %w", port, err))
		}
		ports = append(ports, p)
	}
	return ports
}
