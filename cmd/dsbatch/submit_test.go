package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// submitted is the command line of a submission of a small job.
func submitted(output string, more ...string) []string {
	args := job(output, more...)
	args[0] = "submit"
	return args
}

// commands makes a folder with shell scripts of the given names and contents.
func commands(t testing.TB, scripts map[string]string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// TestSubmitDryRun has a shell run the printed script, with an srun that starts one rank: it does the job that the flags
// ask for, odd names among them.
func TestSubmitDryRun(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "it's $(a) \"folder\"")
	asked := []string{"--stop", "\n'", "--logprobs", "2", "--seed", "7", "--ignore-eos"}
	alone := filepath.Join(folder, "alone")
	dsbatch(t, job(alone, asked...)...).want(t, done)

	output := filepath.Join(folder, "out")
	e := dsbatch(t, submitted(output, append(asked, "--dry-run", "--nodes", "4", "--gpus-per-node", "8", "--time", "4:00:00", "--sbatch", "-C a,b")...)...).want(t, done)
	for _, line := range []string{"--nodes=4", "--ntasks-per-node=8", "--time=4:00:00", "-C a,b"} {
		if !strings.Contains(e.stdout, "#SBATCH "+line+"\n") {
			t.Errorf("no #SBATCH %s in\n%s", line, e.stdout)
		}
	}
	if _, err := os.Stat(output); err == nil {
		t.Error("--dry-run has made the output")
	}
	path := commands(t, map[string]string{"srun": `while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"`, "scontrol": "exit 1"})
	script := exec.Command("bash", "-c", e.stdout)
	script.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, e.stdout)
	}
	sameRows(t, alone, output)
}

func TestSubmit(t *testing.T) {
	queue := commands(t, map[string]string{"sbatch": `[ "$1" = --parsable ] && cat >"$0.got" && echo "12;cluster"`})
	full := commands(t, map[string]string{"sbatch": `echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1`})
	for _, c := range []struct {
		name   string
		path   string
		args   []string
		status int
		say    string
	}{
		{"queued", queue, nil, done, "job 12 is queued; its log will be"},
		{"refused by sbatch", full, nil, failed, "QOSMaxSubmitJobPerUserLimit"},
		{"no sbatch", t.TempDir(), nil, failed, "--dry-run"},
		{"ranks of two kinds", queue, []string{"--ranks", "2"}, badUsage, "--ranks-per-node"},
		{"no such limit", queue, []string{"--time", "4h"}, badUsage, "1:30:00"},
		{"no such flag", queue, []string{"--node", "2"}, badUsage, "did you mean --nodes?"},
		{"a setting of run", queue, []string{"--top-p", "2"}, badUsage, "top-p"},
		{"an argument", queue, []string{"prompts.parquet"}, badUsage, "--input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			output := filepath.Join(t.TempDir(), "out")
			cmd := exec.Command(program, submitted(output, c.args...)...)
			cmd.Env = append(os.Environ(), "PATH="+c.path+":/bin")
			if c.name == "no sbatch" {
				cmd.Env = append(os.Environ(), "PATH="+c.path)
			}
			out, _ := cmd.CombinedOutput()
			if status := cmd.ProcessState.ExitCode(); status != c.status || !strings.Contains(string(out), c.say) {
				t.Errorf("status %d, want %d, and %q in\n%s", status, c.status, c.say, out)
			}
			if _, err := os.Stat(filepath.Join(output, "_dsbatch")); c.status == done && err != nil {
				t.Errorf("there is no folder for the log: %v", err)
			}
			if _, err := os.Stat(output); c.status != done && err == nil {
				t.Error("a job that is not queued leaves a folder behind")
			}
		})
	}
	text, err := os.ReadFile(filepath.Join(queue, "sbatch.got"))
	if err != nil || !strings.HasPrefix(string(text), "#!/bin/bash\n#SBATCH ") {
		t.Errorf("sbatch was given %q, %v", text, err)
	}
}

// TestSubmitChecksFirst: what run would refuse on the ranks asked for never reaches the queue.
func TestSubmitChecksFirst(t *testing.T) {
	begun := filepath.Join(t.TempDir(), "begun")
	dsbatch(t, job(begun)...).want(t, done)
	whole := write(t, "ds.json", `{"kernel_inject": false}`)
	for _, c := range []struct {
		name   string
		args   []string
		status int // done: queued
		say    string
		begun  bool
	}{
		{"an ep that does not divide", []string{"--nodes", "3", "--ranks-per-node", "2", "--ep", "4"}, badConfig, "use 1 or 2", false},
		{"tp of more ranks", []string{"--tp", "4", "--nodes", "2"}, badConfig, "tp", false},
		{"no such model", []string{"--model", "/nowhere"}, noInput, "/nowhere", false},
		{"no such model here", []string{"--model", "/nowhere", "--unchecked"}, done, "job 12 is queued", false},
		{"no such input", []string{"--input", "/nowhere.parquet"}, noInput, "/nowhere.parquet", false},
		{"no such column", []string{"--prompt-column", "promt"}, badData, "did you mean prompt?", false},
		{"other settings than before", []string{"--seed", "1"}, badConfig, "seed", true},
		{"the same settings", []string{}, done, "not checked: memory and CPUs", true},
		{"a GPU that is too small", []string{"--gpus-per-node", "2", "--max-seqs", "60000", "--kv-memory", "90GiB", "--gpu", "a100"}, badConfig, "--kv-memory", false},
		{"two ranks on it", []string{"--gpus-per-node", "1", "--ranks-per-node", "2", "--max-seqs", "60000", "--kv-memory", "50GiB", "--gpu", "a100"}, badConfig, "--kv-memory", false},
		{"a GPU that holds it", []string{"--gpus-per-node", "2", "--max-seqs", "60000", "--kv-memory", "50GiB", "--gpu", "h200"}, done, "tp 1, pp 1, dp 2", false},
		{"a GPU of no name", []string{"--gpus-per-node", "2", "--max-seqs", "60000", "--kv-memory", "90GiB"}, done, "not checked: the GPUs' memory", false},
		{"plain operations on a GPU", []string{"--gpus-per-node", "1", "--ds-config", whole}, badConfig, "plain operations", false},
		{"no such GPU", []string{"--gpus-per-node", "1", "--gpu", "b999"}, badUsage, "h200", false},
		{"a GPU, but the CPU", []string{"--gpus-per-node", "1", "--gpu", "h100", "--device", "cpu"}, badUsage, "--device cpu", false},
		{"more than is laid out", []string{"--nodes", "5000"}, badUsage, "--unchecked", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			queue := commands(t, map[string]string{"sbatch": `cat >"$0.got" && echo 12`})
			output := filepath.Join(t.TempDir(), "out")
			if c.begun {
				output = begun
			}
			cmd := exec.Command(program, submitted(output, c.args...)...)
			cmd.Env = append(os.Environ(), "PATH="+queue+":/bin")
			out, _ := cmd.CombinedOutput()
			if status := cmd.ProcessState.ExitCode(); status != c.status || !strings.Contains(string(out), c.say) {
				t.Errorf("status %d, want %d, and %q in\n%s", status, c.status, c.say, out)
			}
			_, err := os.Stat(filepath.Join(queue, "sbatch.got"))
			if _, made := os.Stat(output); (err == nil) != (c.status == done) || c.status != done && !c.begun && made == nil {
				t.Errorf("queued: %v; the output was made: %v", err == nil, made == nil)
			}
		})
	}
}

// TestTimeLimit gives a deadline: the job stops that long before it, with 75, and goes on when started again. A deadline
// that cannot be read is refused.
func TestTimeLimit(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	run := func(deadline string, more ...string) ended {
		t.Helper()
		_, wait := start(t, "env", append([]string{"DSBATCH_END_TIME=" + deadline, program}, job(output, more...)...)...)
		return wait()
	}
	if e := run("tomorrow").want(t, badUsage); !strings.Contains(e.stderr, "DSBATCH_END_TIME") {
		t.Errorf("what is wrong is not said:\n%s", e.stderr)
	}
	if e := run("1", "--ranks", "2").want(t, stopped); !strings.Contains(e.stderr, "the time limit is near") {
		t.Errorf("the limit is not named:\n%s", e.stderr)
	}
	run("1", "--stop-before", "0").want(t, done)
}
