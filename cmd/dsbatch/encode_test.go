package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/model/modeltest"
)

// encoder is a golden encoder with a vocabulary of words, w5 to w159 behind BERT's special tokens.
func encoder(t testing.TB, name string) string {
	t.Helper()
	folder := modeltest.Unpacked(t, filepath.Join(goldens, name))
	words := []string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
	for i := len(words); i < 160; i++ {
		words = append(words, fmt.Sprint("w", i))
	}
	if err := os.WriteFile(filepath.Join(folder, "vocab.txt"), []byte(strings.Join(words, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

// texts is a file of 40 rows of words with a mask each; the one numbered 11 has none, and 17 is longer than the window.
func texts(t testing.TB) string {
	t.Helper()
	var file strings.Builder
	random := rand.New(rand.NewPCG(1, 2))
	for row := range 40 {
		var words []string
		for range 1 + random.IntN(30) {
			words = append(words, fmt.Sprint("w", 5+random.IntN(155)))
		}
		switch at := random.IntN(len(words)); row {
		case 11:
		case 17:
			words = append(slices.Repeat([]string{"w9"}, 127), "[MASK]")
		default:
			words[at] = "[MASK]"
		}
		fmt.Fprintf(&file, "{\"prompt\": \"%s\", \"name\": \"row %d\"}\n", strings.Join(words, " "), row)
	}
	return write(t, "texts.jsonl", file.String())
}

// reads are the tasks that read texts, with the rows of texts that each sets aside.
var reads = []struct {
	name, model string
	args        []string
	bad         int
}{
	{"embed", "bert-embed", []string{"--task", "embed"}, 1},
	{"embed by the pooler", "bert-embed", []string{"--task", "embed", "--pooling", "pooler"}, 1},
	{"classify", "bert-classify", []string{"--task", "classify"}, 1},
	{"fill-mask", "distilbert-mlm", []string{"--task", "fill-mask", "--top-k", "3"}, 2},
}

// firstRows are the rows of an output as head --json has them.
func firstRows(t testing.TB, output string) (rows []map[string]any) {
	t.Helper()
	for _, line := range lines(dsbatch(t, "head", "--json", "--rows", "100", output).want(t, done).stdout) {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestTextsAreRead runs each task that generates nothing: alone, over ranks, stages and slices, under MPI, killed and gone on
// with. The same rows every time, each once, the bad ones with their reasons.
func TestTextsAreRead(t *testing.T) {
	input := texts(t)
	for _, c := range reads {
		t.Run(c.name, func(t *testing.T) {
			folder := encoder(t, c.model)
			args := func(output string, more ...string) []string {
				return append(append([]string{"run", "--model", folder, "--input", input, "--output", output, "--threads", "1", "--chunk-rows", "3", "--carry", "name"}, c.args...), more...)
			}
			alone := filepath.Join(t.TempDir(), "alone")
			began := time.Now()
			dsbatch(t, args(alone)...).want(t, badRows)
			whole := time.Since(began)
			bad := 0
			for i, row := range firstRows(t, alone) {
				if row["error"] != nil {
					bad++
				}
				if row["row"] != float64(i) || row["name"] != fmt.Sprint("row ", i) {
					t.Fatalf("row %d is %v", i, row)
				}
			}
			if bad != c.bad {
				t.Errorf("%d rows were set aside, want %d", bad, c.bad)
			}
			run := func(name string, f func(output string)) {
				output := filepath.Join(t.TempDir(), name)
				f(output)
				sameRows(t, alone, output)
			}
			run("ranks", func(o string) { dsbatch(t, args(o, "--ranks", "3", "--max-seqs", "2")...).want(t, badRows) })
			run("stages", func(o string) { dsbatch(t, args(o, "--ranks", "2", "--pp", "2")...).want(t, badRows) })
			if withMPI == "" {
				run("mpi", func(o string) { mpirun(t, 2, args(o)...).want(t, badRows) })
			} else {
				t.Log(withMPI)
			}
			run("killed", func(o string) {
				for i := range 4 { // some come before the first chunk, some after the last
					process, wait := start(t, program, args(o, "--max-seqs", "1", "--ranks", fmt.Sprint(1+i%2))...)
					stop := time.AfterFunc(whole*time.Duration(i+1)/4, func() { _ = process.Process.Kill() }) // it may have ended
					wait()
					stop.Stop()
				}
				dsbatch(t, args(o)...).want(t, badRows)
			})
			sliced := filepath.Join(t.TempDir(), "sliced")
			dsbatch(t, args(sliced, "--ranks", "2", "--tp", "2")...).want(t, badRows)
			dsbatch(t, "diff", "--bound", "1e-4", alone, sliced).want(t, done)
			if e := dsbatch(t, args(alone, "--limit", "10")...); e.status != badConfig || !strings.Contains(e.stderr, "limit") {
				t.Errorf("another limit goes on: status %d\n%s", e.status, e.stderr)
			}
			plan := args(filepath.Join(t.TempDir(), "planned"), "--gpus", "2", "--gpu", "h100")
			plan[0] = "plan"
			if e := dsbatch(t, plan...).want(t, done); !strings.Contains(e.stdout, "predicted  at best") || strings.Contains(e.stdout, "output tokens") {
				t.Errorf("plan says\n%s", e.stdout)
			}
			submit := args(filepath.Join(t.TempDir(), "submitted"), "--dry-run")
			submit[0] = "submit"
			if e := dsbatch(t, submit...).want(t, done); !strings.Contains(e.stdout, c.args[1]) {
				t.Errorf("the script does not say %s:\n%s", c.args[1], e.stdout)
			}
		})
	}
}

// TestWhatIsReadOfATextsWords follows words through tokenizer and model to the columns.
func TestWhatIsReadOfATextsWords(t *testing.T) {
	input := write(t, "rows.jsonl", `{"prompt": "w20 [MASK] w21 [MASK]"}`+"\n"+`{"prompt": "w20 w21"}`+"\n"+`{"prompt": ""}`+"\n")
	run := func(model string, status int, args ...string) []map[string]any {
		output := filepath.Join(t.TempDir(), "out")
		dsbatch(t, append([]string{"run", "--model", encoder(t, model), "--input", input, "--output", output}, args...)...).want(t, status)
		return firstRows(t, output)
	}
	output := filepath.Join(t.TempDir(), "shown")
	dsbatch(t, "run", "--model", encoder(t, "distilbert-mlm"), "--input", input, "--output", output, "--task", "fill-mask", "--top-k", "2").want(t, badRows)
	shown := regexp.MustCompile(`(?m)^row 0  2: \S+ 0\.\d+, \S+ 0\.\d+; 4: \S+ 0\.\d+, \S+ 0\.\d+$`)
	if e := dsbatch(t, "head", output).want(t, done); !shown.MatchString(e.stdout) {
		t.Errorf("head shows\n%s", e.stdout)
	}
	rows := run("distilbert-mlm", badRows, "--task", "fill-mask")
	predictions, _ := rows[0]["predictions"].([]any)
	if len(predictions) != 10 || rows[0]["prompt_tokens"] != 6.0 { // [CLS], four words, [SEP]; 5 candidates a mask
		t.Fatalf("%v", rows[0])
	}
	for i, p := range predictions {
		p := p.(map[string]any)
		id := int(p["token_id"].(float64))
		if p["position"] != float64(2+i/5*2) || id > 4 && p["token"] != fmt.Sprint("w", id) || i%5 > 0 && p["probability"].(float64) > predictions[i-1].(map[string]any)["probability"].(float64) {
			t.Errorf("prediction %d is %v", i, p)
		}
	}
	if reason, _ := rows[1]["error"].(string); !strings.Contains(reason, "write [MASK] in the place of a token") || rows[1]["predictions"] != nil {
		t.Errorf("a text without a mask: %v", rows[1])
	}
	rows = run("bert-classify", done, "--task", "classify")
	for i, row := range rows { // an empty text has its special tokens
		label, _ := row["label"].(string)
		logits, _ := row["logits"].([]any)
		if len(logits) != 3 || !strings.HasPrefix(label, "LABEL_") || row["prompt_tokens"] != []any{6.0, 4.0, 2.0}[i] {
			t.Errorf("row %d: %v", i, row)
		}
	}
	for _, row := range run("bert-embed", done, "--task", "embed", "--pooling", "cls") {
		if values, _ := row["embedding"].([]any); len(values) != 32 {
			t.Errorf("%v", row)
		}
	}
	if e := dsbatch(t, "run", "--model", encoder(t, "bert-embed"), "--input", input, "--output", filepath.Join(t.TempDir(), "out")); e.status != badConfig ||
		!strings.Contains(e.stderr, "use --task embed") {
		t.Errorf("an encoder that is to generate: status %d\n%s", e.status, e.stderr)
	}
	if e := dsbatch(t, "run", "--model", bundled, "--input", input, "--output", filepath.Join(t.TempDir(), "out"), "--task", "score", "--pooling", "cls"); e.status != badUsage ||
		!strings.Contains(e.stderr, "--pooling means something to task embed only") {
		t.Errorf("a pooling of scores: status %d\n%s", e.status, e.stderr)
	}
}
