package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMisspelt gives what dsbatch does not know: each refusal names the nearest that it does.
func TestMisspelt(t *testing.T) {
	out := func() string { return filepath.Join(t.TempDir(), "out") }
	key := write(t, "job.yaml", "model: "+bundled+"\ntemprature: 0.5\n")
	nested := write(t, "nested.yaml", "inference:\n  max_out_tokns: 10\n")
	ds := write(t, "ds.json", `{"replace_with_kernel_injct": true}`)
	for _, c := range []struct {
		name   string
		status int
		args   []string
		say    []string
	}{
		{"a command", badUsage, []string{"rnu"}, []string{`"rnu"`, "run?"}},
		{"a command of a command", badUsage, []string{"ckpt", "inspct"}, []string{`"inspct"`, "inspect?"}},
		{"figures with nowhere to write them", badUsage, []string{"bench", "figures"}, []string{"wants --output"}},
		{"an unknown figure", badUsage, []string{"bench", "figures", "--output", "x", "--only", "infrence"}, []string{"--only infrence", "prmoe"}},
		{"figures of no machine", badUsage, []string{"bench", "figures", "--output", "x", "--device", "cpu", "--ranks", "1,70000"}, []string{"--ranks 70000", "use 1 to"}},
		{"to measure what is drawn again", badUsage, []string{"bench", "figures", "--from", "figures.json", "--rounds", "2"}, []string{"--rounds is of measuring"}},
		{"no ranks to measure", badUsage, []string{"bench", "comm", "--ranks", "0"}, []string{"--ranks 0", "at least 1"}},
		{"what to measure", badUsage, []string{"bench", "kernls"}, []string{`"kernls"`, "kernels?"}},
		{"a flag of run", badUsage, job(out(), "--temprature", "1"), []string{"--temprature", "--temperature?"}},
		{"a flag of verify", badUsage, []string{"verify", "x", "--quik"}, []string{"dsbatch verify", "--quick?"}},
		{"a flag of ckpt inspect", badUsage, []string{"ckpt", "inspect", "x", "--tga", "y"}, []string{"dsbatch ckpt inspect", "--tag?"}},
		{"a letter", badUsage, job(out(), "-x"), []string{"has no flag -x; see dsbatch run --help"}},
		{"a flag far from all", badUsage, job(out(), "--zzzzzzzzzzzz"), []string{"--zzzzzzzzzzzz", "--help"}},
		{"a key of the job file", badConfig, []string{"run", "--job", key}, []string{"job.yaml:2", "temprature", "temperature?"}},
		{"a key of inference", badConfig, job(out(), "--job", nested), []string{"nested.yaml:2", "max_out_tokns", "max_out_tokens?"}},
		{"a key of a DeepSpeed config", badConfig, job(out(), "--ds-config", ds), []string{"ds.json:1", "replace_with_kernel_inject"}},
		{"a value", badUsage, job(out(), "--task", "generat"), []string{"generat", "generate"}},
		{"a dtype", badUsage, job(out(), "--dtype", "bf61"), []string{"bf61", "bf16"}},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, c.status, c.args, c.say...) })
	}
}

// TestMisused gives known words in the wrong way.
func TestMisused(t *testing.T) {
	out := func() string { return filepath.Join(t.TempDir(), "out") }
	dangling := filepath.Join(t.TempDir(), "dangling")
	if err := os.Symlink("/nowhere/out", dangling); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		status int
		args   []string
		say    []string
	}{
		{"no input", badUsage, []string{"run", "--model", bundled, "--output", out()}, []string{"--input"}},
		{"nothing", badUsage, []string{"run"}, []string{"--model", "--input", "--output"}},
		{"a positional argument", badUsage, job(out(), "rows.parquet"), []string{`"rows.parquet"`, "--input"}},
		{"a positional argument before the flags", badUsage, append([]string{"run", "rows.parquet"}, job(out())[1:]...), []string{`"rows.parquet"`, "--input"}},
		{"no output to verify", badUsage, []string{"verify"}, []string{"OUTPUT"}},
		{"two outputs to verify", badUsage, []string{"verify", "a", "b"}, []string{"2"}},
		{"one output to diff", badUsage, []string{"diff", "a"}, []string{"two"}},
		{"verify what is not there", noInput, []string{"verify", "/nowhere"}, []string{"/nowhere"}},
		{"head of what is not there", noInput, []string{"head", "/nowhere"}, []string{"/nowhere: no such folder"}},
		{"diff with what is not there", noInput, []string{"diff", "/nowhere", "/neither"}, []string{"/nowhere"}},
		{"an output that is a link to nothing", failed, job(dangling), []string{"dangling is a link to /nowhere/out, which is not there", "remove the link"}},
		{"an output behind a link to nothing", failed, job(filepath.Join(dangling, "a", "b")), []string{"dangling is a link to /nowhere/out, which is not there", "remove the link"}},
		{"a flag without its value", badUsage, []string{"run", "--temperature"}, []string{"--temperature", "value"}},
		{"a word after a switch", badUsage, job(out(), "--reference", "true"), []string{`"true"`, "=true"}},
		{"a word for a number", badUsage, job(out(), "--max-new-tokens", "many"), []string{"--max-new-tokens", `"many"`, "number"}},
		{"a number out of range", badUsage, job(out(), "--temperature", "-1"), []string{"--temperature", "-1"}},
		{"no rows at all", badUsage, job(out(), "--limit", "0"), []string{"--limit", "at least 1", "all"}},
		{"a flag given twice", badUsage, append(job(out()), "--seed", "1", "--seed", "2"), []string{"--seed", "twice"}},
		{"a carried column named as one of the output's", badUsage, job(out(), "--carry", "source:output"), []string{`"output"`, "--carry COLUMN:NAME"}},
		{"an output inside the input", badUsage, job(filepath.Dir(prompts)+"/austen-prmoe/out", "--input", filepath.Dir(prompts)), []string{"--output"}},
		{"experts over ranks that they do not divide", badUsage, job(out(), "--ranks", "4", "--ep", "3"), []string{"3", "4", "use 1, 2 or 4"}},
		{"ep that no layer's experts can be divided by", badConfig, job(out(), "--ranks", "3", "--ep", "3"), []string{"3", "experts", "use"}},
		{"ep of one rank", badConfig, job(out(), "--ep", "3"), []string{"3", "1"}},
		{"tp of one rank", badConfig, job(out(), "--tp", "2"), []string{"tp_size 2", "start more ranks: with mpirun -n N"}},
		{"tp over more ranks than heads", badConfig, job(out(), "--ranks", "8", "--tp", "8"), []string{"tp 8", "heads", "use 1 to 6"}},
		{"stages that the ranks cannot be cut into", badUsage, job(out(), "--ranks", "4", "--pp", "3"), []string{"3", "use 1, 2 or 4"}},
		{"more stages than layers", badConfig, job(out(), "--ranks", "8", "--pp", "8"), []string{"pp 8", "layers", "use 1 to 6"}},
		{"a GPU where there is none", badConfig, job(out(), "--device", "cuda"), []string{"--device cpu"}},
		{"less memory than a row takes", badConfig, job(out(), "--kv-memory", "64KiB"), []string{"64 KiB", "MiB", "--kv-memory"}},
		{"replicas that the ranks do not make", badConfig, job(out(), "--dp", "5"), []string{"dp 5", "leave --dp out"}},
		{"more log-probabilities than tokens", badConfig, job(out(), "--logprobs", "100000"), []string{"--logprobs 100000", "2000 tokens"}},
		{"a placement that is not there", noInput, job(out(), "--expert-placement", "/nowhere"), []string{"/nowhere", "dsbatch plan --placement"}},
		{"a folder for a placement", badConfig, job(out(), "--expert-placement", t.TempDir()), []string{"is a directory", "dsbatch plan --placement"}},
		{"an object store", badUsage, []string{"run", "--model", bundled, "--input", prompts, "--output", "s3://bucket/out"}, []string{"--output s3://bucket/out is an address"}},
		{"a path that no shell has expanded", badUsage, []string{"run", "--model", bundled, "--input", prompts, "--output=~/out"}, []string{"--output ~/out", "shell"}},
		{"half a pattern", noInput, job(out(), "--input", "rows-["), []string{"rows-[", "[ ]"}},
		{"an output whose variable is not set", badUsage, []string{"head", ""}, []string{"dsbatch head", "empty"}},
		{"less than no rows", badUsage, []string{"head", "--rows", "-1", bundled}, []string{"-1"}},
		{"no checkpoint to inspect", badUsage, []string{"ckpt", "inspect"}, []string{"dsbatch ckpt inspect takes one MODEL"}},
		{"a file for the doctor's output", noInput, []string{"doctor", prompts}, []string{"no output of dsbatch run"}},
		{"a tokenizer of nobody", noInput, []string{"tokenize", "--model", "/nowhere"}, []string{"/nowhere", "--model"}},
		{"help for nothing", badUsage, []string{"help", "nope"}, []string{"nope"}},
		{"help for a word", badUsage, []string{"run", "--help", "zzzz"}, []string{"No help topic for 'zzzz'.\n"}},
		{"a plan of ranks in a process", badUsage, append([]string{"plan"}, job(out(), "--ranks", "2")[1:]...), []string{"--gpus"}},
		{"a plan of prompts longer than the window", badUsage, append([]string{"plan", "--prompt-tokens", "100000"}, job(out())[1:]...), []string{"window has 512"}},
		{"a plan without memory", badConfig, append([]string{"plan"}, job(out(), "--kv-memory", "1")[1:]...), []string{"dsbatch: refused: the KV cache"}},
		{"a shell without completion", badUsage, []string{"completion", "csh"}, []string{"csh", "bash"}},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, c.status, c.args, c.say...) })
	}
}

// TestOutputNotWritable names an output that cannot be made.
func TestOutputNotWritable(t *testing.T) {
	file := write(t, "file", "")
	e := dsbatch(t, job(filepath.Join(file, "out"))...).want(t, failed)
	if text := lines(e.stderr); len(text) != 1 || !strings.Contains(text[0], file) {
		t.Errorf("it does not name the output in one line:\n%s", e.stderr)
	}
	t.Log(e.stderr)

	if _, err := os.Stat("/proc/self"); err == nil { // where no folder can be made
		e := dsbatch(t, job("/proc/dsbatch-test/out")...).want(t, failed)
		if text := lines(e.stderr); len(text) != 1 || !strings.Contains(text[0], "/proc/dsbatch-test") || !strings.Contains(text[0], "--output") {
			t.Errorf("it does not name the output and the mend in one line:\n%s", e.stderr)
		}
	}
	folder := t.TempDir()
	if os.Geteuid() == 0 {
		folder = "/sys" // where root cannot write either
	} else if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	e = dsbatch(t, job(filepath.Join(folder, "dsbatch-test-out"))...).want(t, failed)
	if text := lines(e.stderr); len(text) != 1 || !strings.Contains(text[0], folder) || !strings.Contains(text[0], "--output") {
		t.Errorf("it does not name the output and the mend in one line:\n%s", e.stderr)
	}
	t.Log(e.stderr)
}

// TestWrongVariables sets variables of the environment to what cannot be.
func TestWrongVariables(t *testing.T) {
	for _, c := range []struct {
		name, value string
		status      int
		say         []string
	}{
		{"DSBATCH_CPU", "sse9", badConfig, []string{"DSBATCH_CPU", `"sse9"`, "use auto"}},
		{"DSBATCH_A2A", "pigeons", badConfig, []string{"DSBATCH_A2A", `"pigeons"`, "use auto"}},
		{"DSBATCH_END_TIME", "soon", badUsage, []string{"DSBATCH_END_TIME", "soon", "write seconds"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			refused(t, c.status, job(filepath.Join(t.TempDir(), "out")), c.say...)
		})
	}
}

// TestDamagedJobFile: an output whose job.json is not what was written is not touched.
func TestDamagedJobFile(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output)...).want(t, done)
	name := filepath.Join(output, "_dsbatch", "job.json")
	for _, c := range []struct {
		content string
		status  int
		say     []string
	}{
		{`{"format": 1, "fing`, badData, []string{name, "damaged", "give another --output"}},
		{``, badData, []string{name, "damaged"}},
		{`{"format": 1, "samples": 1, "chunks": [[0, 5, 3]]}`, badData, []string{name, "damaged", "chunk 0"}},
		{`{"format": 99}`, badConfig, []string{name, "format 99", "use the version that made it"}},
	} {
		replace(t, name, c.content)
		before := folder(t, output)
		for _, args := range [][]string{job(output), {"verify", output}, {"head", output}} {
			e := dsbatch(t, args...).want(t, c.status)
			for _, part := range c.say {
				if !strings.Contains(e.stderr, part) {
					t.Errorf("it does not say %q:\n%s", part, e.stderr)
				}
			}
		}
		if after := folder(t, output); after != before {
			t.Errorf("files changed:\n%s\nbefore:\n%s", after, before)
		}
	}
}

// TestForeignFolderIsLeftAlone gives an output folder that holds somebody else's Parquet files.
func TestForeignFolderIsLeftAlone(t *testing.T) {
	folder := t.TempDir()
	text, err := os.ReadFile(prompts)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, filepath.Join(folder, "part-0000000.parquet"), string(text))
	e := dsbatch(t, job(folder)...).want(t, badConfig)
	t.Log(e.stderr)
	if !strings.Contains(e.stderr, "part-0000000.parquet") || !strings.Contains(e.stderr, "--output") {
		t.Errorf("it does not name the file and the mend:\n%s", e.stderr)
	}
	if now, err := os.ReadFile(filepath.Join(folder, "part-0000000.parquet")); err != nil || string(now) != string(text) {
		t.Errorf("the file was changed: %v", err)
	}
}

// TestOutputInUse starts a second job on the output of a live one: refused, and the first is not disturbed.
func TestOutputInUse(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	long := []string{"--max-new-tokens", "400", "--limit", "1000", "--max-seqs", "1", "--chunk-rows", "1"}
	first, wait := start(t, program, job(output, long...)...)
	waitForCommit(t, output)
	var e ended
	spent := time.Hour
	for try := 0; try < 4 && spent > 4*time.Second; try++ { // of a busy machine's tries the fastest counts
		began := time.Now()
		e = dsbatch(t, job(output, long...)...)
		spent = min(spent, time.Since(began))
	}
	t.Logf("after %v: %s", spent, e.stderr)
	if spent > 4*time.Second { // less than two of the lease's beats: no need to wait for one on this host
		t.Errorf("the refusal took %v", spent)
	}
	if e.status != failed || !strings.Contains(e.stderr, "in use") || !strings.Contains(e.stderr, fmt.Sprintf("process %d on host", first.Process.Pid)) || !strings.Contains(e.stderr, "since 20") {
		t.Errorf("status %d, want %d, and a line that says who uses the output", e.status, failed)
	}
	if err := first.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	wait().want(t, stopped)
}

// TestMoreRanksThanRows has ranks that never get a row.
func TestMoreRanksThanRows(t *testing.T) {
	alone, many := filepath.Join(t.TempDir(), "alone"), filepath.Join(t.TempDir(), "many")
	dsbatch(t, job(alone, "--limit", "2", "--chunk-rows", "1")...).want(t, done)
	dsbatch(t, job(many, "--limit", "2", "--chunk-rows", "1", "--ranks", "7")...).want(t, done)
	sameRows(t, alone, many)
}

// TestFlagsAfterArguments puts flags behind what they are about.
func TestFlagsAfterArguments(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output, "--limit", "3")...).want(t, done)
	dsbatch(t, "verify", output, "--quick").want(t, done)
	if e := dsbatch(t, "head", output, "--rows", "2", "--json").want(t, done); len(lines(e.stdout)) != 2 {
		t.Errorf("dsbatch head OUTPUT --rows 2: %d rows", len(lines(e.stdout)))
	}
	dsbatch(t, "diff", output, output, "--bound", "0").want(t, done)
}
