package slurm

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func example() Script {
	return Script{Command: []string{"/bin/dsbatch", "run", "--model=m"}, Dir: "/work", Log: "/work/out", Nodes: 2, RanksPerNode: 8, GPUsPerNode: 8,
		Time: "4:00:00", StopBefore: 2 * time.Minute, Requeues: 20}
}

// runScript runs the script by bash, with commands of ours in the place of Slurm's.
func runScript(t interface {
	Helper()
	Fatal(...any)
}, s Script, env ...string) (output string, status int) {
	t.Helper()
	c := exec.Command("bash", "-c", s.Text())
	c.Env = append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// TestArgumentsArriveAsTheyAre gives arguments of any characters, and has the shell that runs the script hand them on.
func TestArgumentsArriveAsTheyAre(t *testing.T) {
	command(t, "srun", `for a do printf '%s\0' "$a"; done`)
	rapid.Check(t, func(t *rapid.T) {
		s := example()
		s.Requeues = 0
		s.Command = rapid.SliceOfN(rapid.StringOf(rapid.OneOf(rapid.RuneFrom([]rune("'\"\\$`!#*?~;&|<>(){}[]=\n\t -%a")), rapid.Rune())), 2, 6).Draw(t, "command")
		s.Command[0] = "dsbatch" // srun's own options end here
		if s.Check() != nil {
			t.Skip("a zero byte")
		}
		out, status := runScript(t, s)
		got := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
		if at := slices.Index(got, "dsbatch"); status != 0 || at < 0 || !slices.Equal(got[at:], s.Command) {
			t.Fatalf("status %d, %q, want %q", status, got, s.Command)
		}
	})
}

// TestQueuedAgain runs the end of the script: a clean stop shortly before the limit, and nothing else, queues the job
// again, a bounded number of times.
func TestQueuedAgain(t *testing.T) {
	const soon, later, never = "$(($(date +%s) + 100))", "$(($(date +%s) + 1000))", "Unknown"
	for _, c := range []struct {
		name     string
		status   int
		end      string
		restarts string
		again    bool
	}{
		{"out of time", 75, soon, "", true},
		{"out of time again", 75, soon, "19", true},
		{"too often", 75, soon, "20", false},
		{"done", 0, soon, "", false},
		{"done with bad rows", 3, soon, "", false},
		{"failed", 1, soon, "", false},
		{"asked to stop, with time left", 75, later, "", false},
		{"asked to stop, with all time", 75, never, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			command(t, "srun", fmt.Sprint(`[ "$SLURM_PMIX_FENCE" = ring ] || exit 99; exit `, c.status))
			command(t, "scontrol", `if [ "$1" = requeue ]; then echo REQUEUE "$2"; else echo "JobId=$4 StartTime=1 EndTime=`+c.end+` Deadline=N/A"; fi`)
			out, status := runScript(t, example(), "SLURM_JOB_ID=12", "SLURM_RESTART_COUNT="+c.restarts)
			if again := strings.Contains(out, "REQUEUE 12"); status != c.status || again != c.again {
				t.Errorf("status %d, queued again: %v, want %d, %v\n%s", status, again, c.status, c.again, out)
			}
		})
	}
}

func TestDirectives(t *testing.T) {
	s := example()
	s.Log, s.Name, s.Directives = `/work/50% off/"x"`, "a b", []string{"--constraint=h100,a100"}
	text := s.Text()
	for _, want := range []string{
		`--job-name="a\ b"`, "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--exclusive", "--mem=0", "--time=4:00:00", "--chdir=/work",
		`--output="/work/50%%\ off/\"x\"/slurm-%j.log"`, "--open-mode=append", "--requeue", "--signal=USR1@60", "--constraint=h100,a100",
	} {
		if !strings.Contains(text, "#SBATCH "+want+"\n") {
			t.Errorf("no #SBATCH %s in\n%s", want, text)
		}
	}
	s.CPUsPerRank, s.GPUsPerNode, s.StopBefore, s.Requeues = 3, 0, 0, 0
	text = s.Text()
	for _, not := range []string{"gpus", "exclusive", "--mem", "signal", "requeue \""} {
		if strings.Contains(text, not) {
			t.Errorf("%s in\n%s", not, text)
		}
	}
	if strings.Count(text, "--cpus-per-task=3") != 2 {
		t.Errorf("srun is not told of the cores:\n%s", text)
	}
}

func TestScriptRefused(t *testing.T) {
	for say, change := range map[string]func(*Script){
		"--nodes 0":                   func(s *Script) { s.Nodes = 0 },
		"--ranks-per-node -1":         func(s *Script) { s.RanksPerNode = -1 },
		"cannot share its GPUs":       func(s *Script) { s.RanksPerNode = 3 },
		`--time: "4h"`:                func(s *Script) { s.Time = "4h" },
		"leaves nothing of":           func(s *Script) { s.Time = "2" },
		"--job-name":                  func(s *Script) { s.Name = "a\n#SBATCH --uid=0" },
		"--partition":                 func(s *Script) { s.Partition = "a\n" },
		"the working directory":       func(s *Script) { s.Dir = "/a\nb" },
		`--sbatch "constraint=h100"`:  func(s *Script) { s.Directives = []string{"constraint=h100"} },
		`--sbatch "-C\nrm`:            func(s *Script) { s.Directives = []string{"-C\nrm -rf x"} },
		"--requeues -1":               func(s *Script) { s.Requeues = -1 },
		"has a zero byte":             func(s *Script) { s.Command = append(s.Command, "\x00") },
		"has a backslash in its name": func(s *Script) { s.Log = `/a\b` },
	} {
		s := example()
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", say, err)
		}
	}
	s := example()
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}
