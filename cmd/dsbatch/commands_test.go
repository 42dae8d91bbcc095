package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTokenize sends texts there and back, and a line that cannot be used.
func TestTokenize(t *testing.T) {
	const text = "It was a truth universally acknowledged,\nthat…"
	line, err := json.Marshal(map[string]any{"text": text})
	if err != nil {
		t.Fatal(err)
	}
	e := feed(t, string(line)+"\n{\"other\": 1}\n", "tokenize", "--model", bundled).want(t, done)
	answers := lines(e.stdout)
	if len(answers) != 2 || !strings.Contains(answers[1], `"error"`) {
		t.Fatalf("answers %q, want ids and an error", answers)
	}
	e = feed(t, answers[0], "tokenize", "--decode", "--model", bundled).want(t, done)
	var back struct{ Text string }
	if err := json.Unmarshal([]byte(e.stdout), &back); err != nil || back.Text != text {
		t.Errorf("%q came back as %q (%v)", text, back.Text, err)
	}
	e = feed(t, "{\"ids\": [1.5]}\n{\"ids\": [], \"skip_special\": 1}\n", "tokenize", "--decode", "--model", bundled).want(t, done)
	if want := "{\"error\":\"ids is not a list of token ids\"}\n{\"error\":\"skip_special is not true or false\"}\n"; e.stdout != want {
		t.Errorf("%s, want %s", e.stdout, want)
	}
	refused(t, badConfig, []string{"tokenize", "--model", filepath.Join(goldens, "mixtral")}, "no tokenizer")
	refused(t, badUsage, []string{"tokenize"}, "--model")
}

// TestTokenizeIsAsStrictAsRun: a text that a row is set aside for gives no ids either, and for the same reason.
func TestTokenizeIsAsStrictAsRun(t *testing.T) {
	rows := []string{
		`{"text": "half \ud800 of a pair"}`,
		`{"text": "\udc00\ud800"}`,
		`{"text": "a pair \ud83d\ude00"}`,
		"{\"text\": \"caf\xe9\"}",
		`{"text": "twice", "text": "other"}`,
		`{"text": "more"} x`,
		`{"text": "also", "other": "\ud800"}`,
		`["text"]`,
		`{"text": "good", "special": null}`,
	}
	in := strings.Join(rows, "\n")
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output, "--input", write(t, "rows.jsonl", in), "--prompt-column", "text", "--max-new-tokens", "1")...).want(t, badRows)
	of := head(t, output)
	answers := lines(feed(t, in, "tokenize", "--model", bundled).want(t, done).stdout)
	if len(of) != len(rows) || len(answers) != len(rows) {
		t.Fatalf("%d rows and %d answers, want %d", len(of), len(answers), len(rows))
	}
	good := 0
	for i, answer := range answers {
		var a struct {
			IDs   []int
			Error any
		}
		if err := json.Unmarshal([]byte(answer), &a); err != nil {
			t.Fatal(err)
		}
		if a.IDs != nil {
			good++
		}
		if a.Error != of[i]["error"] || a.Error == nil && float64(len(a.IDs)) != of[i]["prompt_tokens"] {
			t.Errorf("%q: tokenize says %s, run %v", rows[i], answer, of[i])
		}
	}
	if good != 2 {
		t.Errorf("%d of the texts are good, want 2", good)
	}
}

// feed runs the program with something on standard input.
func feed(t testing.TB, in string, args ...string) ended {
	t.Helper()
	path := write(t, "stdin", in)
	_, wait := start(t, "sh", append([]string{"-c", `in=$1; shift; exec "$@" <"$in"`, "sh", path, program}, args...)...)
	return wait()
}

// TestInspect looks at the bundled model: a residual pyramid of 4, 4 and 8 experts.
func TestInspect(t *testing.T) {
	e := dsbatch(t, "ckpt", "inspect", bundled).want(t, done)
	for _, word := range []string{"deepspeed", "7899270", "4, 4, 8", "BF16", "layer 5"} {
		if !strings.Contains(e.stdout, word) {
			t.Errorf("it does not say %q:\n%s", word, e.stdout)
		}
	}
}

// TestAboutItself asks the program about itself and the machine.
func TestAboutItself(t *testing.T) {
	if e := dsbatch(t, "version").want(t, done); !strings.HasPrefix(e.stdout, "dsbatch 0.") {
		t.Errorf("version: %s", e.stdout)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if e := dsbatch(t, "completion", shell).want(t, done); !strings.Contains(e.stdout, "dsbatch") {
			t.Errorf("completion %s: %s", shell, e.stdout)
		}
	}
	if bash, err := exec.LookPath("bash"); err == nil { // what it makes of a line
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "a file"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		for line, want := range map[string]string{
			"r": "run", "run --": "--model", "run --mod": "--model", "head --": "--json", "ckpt ": "inspect", "head a": "", // left to bash
		} {
			c := exec.Command(bash, "-c", `source <(dsbatch completion bash); COMP_WORDS=(dsbatch "$@"); COMP_CWORD=$#; _dsbatch; printf '%s\n' "${COMPREPLY[@]}"`, "bash")
			c.Args = append(c.Args, strings.Split(line, " ")...)
			c.Dir, c.Env = folder, append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
			if out, err := c.CombinedOutput(); err != nil || !slices.Contains(strings.Split(string(out), "\n"), want) {
				t.Errorf("bash offers for %q %v:\n%s", line, err, out)
			}
		}
	}
	if e := dsbatch(t, "--generate-bash-completion").want(t, done); !slices.Contains(lines(e.stdout), "verify") {
		t.Errorf("a shell is not told of verify:\n%s", e.stdout)
	}
	for _, command := range [][]string{{}, {"run"}, {"head"}, {"verify"}, {"diff"}, {"tokenize"}, {"ckpt"}, {"ckpt", "inspect"}, {"doctor"}} {
		if e := dsbatch(t, append(command, "--help")...).want(t, done); !strings.Contains(e.stdout, "USAGE") || e.stderr != "" {
			t.Errorf("dsbatch %v --help: %s%s", command, e.stdout, e.stderr)
		}
	}
}

// TestJobFile runs what a file says, with a flag over it.
func TestJobFile(t *testing.T) {
	byFlags, byFile := filepath.Join(t.TempDir(), "flags"), filepath.Join(t.TempDir(), "file")
	dsbatch(t, job(byFlags, "--seed", "7")...).want(t, done)
	file := write(t, "job.yaml", fmt.Sprintf("model: %s\ninput: [%s]\noutput: %s\nthreads: 1\nlimit: 24\nmax_new_tokens: 8\n"+
		"chunk_rows: 3\ntemperature: 0.8\ntop_k: 40\nseed: 6\ninference:\n  dtype: torch.bfloat16\n", bundled, prompts, byFile))
	dsbatch(t, "run", "--job", file, "--seed", "7").want(t, done)
	if e := dsbatch(t, "diff", byFlags, byFile); e.status != done || !strings.HasSuffix(e.stdout, ": the same\n") {
		t.Errorf("the job file does not say what the flags say:\n%s", e.stdout)
	}
	if e := dsbatch(t, "run", "--job", file).want(t, badConfig); !strings.Contains(e.stderr, "seed") {
		t.Errorf("it does not say that the seed differs:\n%s", e.stderr)
	}
}

// TestLogInJSON: a collector can read every line, the last one and an error's too.
func TestLogInJSON(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		status int
		more   []string
		msg    string
	}{
		{done, []string{"--progress", "log"}, "committed"},
		{badConfig, []string{"--seed", "8"}, "seed"},
	} {
		e := dsbatch(t, job(output, append(c.more, "--log-format", "json")...)...).want(t, c.status)
		var last struct{ Msg string }
		for _, line := range lines(e.stderr) {
			if err := json.Unmarshal([]byte(line), &last); err != nil {
				t.Errorf("%v: %q", err, line)
			}
		}
		if !strings.Contains(last.Msg, c.msg) {
			t.Errorf("the last line does not say %q:\n%s", c.msg, e.stderr)
		}
	}
}

// TestDiffAndVerifyFind changes an output and another job's seed: both are found, with the place.
func TestDiffAndVerifyFind(t *testing.T) {
	one, other := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "other")
	dsbatch(t, job(one)...).want(t, done)
	dsbatch(t, job(other, "--seed", "1")...).want(t, done)
	if e := dsbatch(t, "diff", one, other).want(t, badData); !strings.Contains(e.stdout, "output: ") || !strings.HasSuffix(e.stdout, ": they differ\n") {
		t.Errorf("diff of other seeds:\n%s", e.stdout)
	}
	part := filepath.Join(one, "part-0000002.parquet")
	cut(t, part, 1000)
	if e := dsbatch(t, "verify", one).want(t, badData); !strings.Contains(e.stdout, "part-0000002.parquet") {
		t.Errorf("verify of a part that was cut off:\n%s", e.stdout)
	}
	remove(t, part)
	if e := dsbatch(t, "verify", one).want(t, badData); !strings.Contains(e.stdout, "part-0000002.parquet") {
		t.Errorf("verify of a part that is gone:\n%s", e.stdout)
	}
	dsbatch(t, job(one)...).want(t, done) // it is done again
	dsbatch(t, "verify", one).want(t, done)
}

// TestColumns asks for what a row may have beside its text.
func TestColumns(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output, "--limit", "4", "--n", "2", "--logprobs", "3", "--id-column", "id", "--carry", "source:book,seed")...).want(t, done)
	rows := head(t, output)
	if len(rows) != 8 {
		t.Fatalf("%d rows, want 2 samples of 4", len(rows))
	}
	for i, row := range rows {
		ids, _ := row["output_ids"].([]any)
		tops, _ := row["top_logprobs"].([]any)
		if row["sample"] != float64(i%2) || row["id"] == nil || row["book"] == nil || row["row"] != nil ||
			len(ids) == 0 || len(tops) != len(ids) || row["output_tokens"] != float64(len(ids)) {
			t.Errorf("row %d: %v", i, row)
		}
	}
	scores := filepath.Join(t.TempDir(), "scores")
	dsbatch(t, "run", "--task", "score", "--model", bundled, "--input", absolute("../../examples/passages.parquet"), "--limit", "4",
		"--continuation-column", "continuation", "--output", scores, "--threads", "1").want(t, done)
	for _, row := range head(t, scores) {
		each, _ := row["token_logprobs"].([]any)
		sum := 0.0
		for _, x := range each {
			v, _ := x.(float64)
			sum += v
		}
		whole, _ := row["logprob"].(float64)
		if len(each) == 0 || row["tokens"] != float64(len(each)) || whole >= 0 || max(sum-whole, whole-sum) > 1e-3 {
			t.Errorf("score: %v; the tokens sum up to %v", row, sum)
		}
	}
}
