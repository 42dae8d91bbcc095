package engine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
)

// pairs are texts of a vocabulary of words w5 to w159, behind the special tokens of BERT.
var pairs = [][2]string{{"w7 w8 w150", "w9 w8"}, {"w30", "w31 w32 w33 w34 w35 w36"}, {"", "w12 w13"}, {"w40 w41 w42 w43 w44", ""}, {"w9 w8", "w7 w8 w150"}}

// pairIDs are a pair's tokens as BERT's paper joins them, and at which the second type begins.
func pairIDs(pair [2]string) (ids []int32, second int) {
	const cls, sep = 2, 3
	ids = append(ids, cls)
	for i, text := range pair {
		if i == 1 {
			second = len(ids)
		}
		for _, word := range strings.Fields(text) {
			var id int32
			_, _ = fmt.Sscanf(word, "w%d", &id) // they are all of that form
			ids = append(ids, id)
		}
		ids = append(ids, sep)
	}
	return ids, second
}

// wordModel is a copy of a golden's folder with a vocabulary of words.
func wordModel(t *testing.T, golden string) string {
	t.Helper()
	to, words := filepath.Join(t.TempDir(), "model"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
	if err := os.CopyFS(to, os.DirFS(bundledGolden(t, golden))); err != nil {
		t.Fatal(err)
	}
	for id := 5; id < 160; id++ {
		words += fmt.Sprintf("w%d\n", id)
	}
	if err := os.WriteFile(filepath.Join(to, "vocab.txt"), []byte(words), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// retyped is a copy of the golden bert-classify in which the tokens from a position on are of the second type, whatever text is
// read: what the two types' embeddings differ by stands in the positions.
func retyped(t *testing.T, second int) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(to, os.DirFS(bundledGolden(t, "bert-classify"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(to, "model.safetensors")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	end := 8 + int(binary.LittleEndian.Uint64(data))
	var header map[string]struct {
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data[8:end], &all); err != nil {
		t.Fatal(err)
	}
	delete(all, "__metadata__")
	text, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(text, &header)
	}
	if err != nil {
		t.Fatal(err)
	}
	types, positions := header["bert.embeddings.token_type_embeddings.weight"], header["bert.embeddings.position_embeddings.weight"]
	hidden := types.Shape[1]
	value := func(at int) []byte { return data[end+at:][:4] }
	number := func(at int) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(value(at)))) }
	for at := second * hidden; at < positions.Shape[0]*hidden; at++ {
		j := at % hidden
		x := number(positions.Offsets[0]+4*at) + number(types.Offsets[0]+4*(hidden+j)) - number(types.Offsets[0]+4*j)
		binary.LittleEndian.PutUint32(value(positions.Offsets[0]+4*at), math.Float32bits(float32(x)))
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// pairRows writes the pairs as rows.
func pairRows(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&text, `{"premise": %q, "hypothesis": %q}`+"\n", p[0], p[1])
	}
	return writeLines(t, text.String())
}

// writeLines writes JSON Lines.
func writeLines(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pairJob(t *testing.T, model string) *config.Job {
	j := encoderJob(t, model, config.Classify, pairRows(t))
	j.PromptColumn, j.IDsColumn, j.PairColumn = "premise", "", "hypothesis"
	return j
}

// TestPairsHaveTwoTypesOfTokens: the labels of a pair are those of its ids in a model whose positions hold the types; a model
// without types reads the same ids; and no batch, stage or rank changes a bit.
func TestPairsHaveTwoTypesOfTokens(t *testing.T) {
	dir := wordModel(t, "bert-classify")
	rows, single := outcomeOf(t, 1, pairJob(t, dir)), bundledGolden(t, "bert-classify")
	for i, pair := range pairs {
		ids, second := pairIDs(pair)
		logits := func(model string) []float32 {
			return column[[]float32](t, outcomeOf(t, 1, encoderJob(t, model, config.Classify, idRows(t, ids)))[0]["logits"])
		}
		got, want, untyped := column[[]float32](t, rows[i]["logits"]), logits(retyped(t, second)), logits(single)
		nearTo(t, fmt.Sprintf("pair %d", i), got, want, 1e-5)
		if apart := math.Abs(float64(untyped[0] - want[0])); apart < 1e-3 {
			t.Errorf("pair %d: types of tokens change the first logit by %g: nothing is tested", i, apart)
		}
		if n := column[int](t, rows[i]["prompt_tokens"]); n != len(ids) {
			t.Errorf("pair %d has %d tokens, want %v", i, n, ids)
		}
	}
	want := map[int]map[string]string{}
	for _, s := range []struct{ ranks, tp, pp, seqs int }{{1, 1, 1, 1}, {1, 1, 1, 9}, {2, 1, 2, 2}, {2, 1, 1, 2}, {2, 2, 1, 1}, {4, 2, 2, 3}} {
		j := pairJob(t, dir)
		j.TP, j.PP, j.MaxSeqs, j.ChunkRows = s.tp, s.pp, s.seqs, 2
		got, err := runRanks(t, s.ranks, j, RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want[s.tp] == nil {
			want[s.tp] = got.Digests
		}
		if !maps.Equal(got.Digests, want[s.tp]) {
			t.Errorf("%+v: digests %v, first %v", s, got.Digests, want[s.tp])
		}
	}
}

// TestPairsWithoutTypes: DistilBERT, which knows no types, reads the joined ids as they are.
func TestPairsWithoutTypes(t *testing.T) {
	g := bundledGolden(t, "distilbert-mlm")
	classifier := func(dir string, rows string) *config.Job {
		j := encoderJob(t, dir, config.Embed, rows) // it has no labels here; what reads pairs is the same
		j.Pooling = "cls"
		return j
	}
	paired := classifier(wordModel(t, "distilbert-mlm"), pairRows(t))
	paired.PromptColumn, paired.IDsColumn, paired.PairColumn = "premise", "", "hypothesis"
	for i, row := range outcomeOf(t, 1, paired) {
		ids, _ := pairIDs(pairs[i])
		want := outcomeOf(t, 1, classifier(g, idRows(t, ids)))[0]["embedding"]
		if got, same := column[[]float32](t, row["embedding"]), column[[]float32](t, want); fmt.Sprint(got) != fmt.Sprint(same) {
			t.Errorf("pair %d: %v, its ids %v", i, got, same)
		}
	}
}

// TestTruncate: texts that the window does not hold are read as their first tokens between the special ones; without
// --truncate they are set aside, and told how to be had.
func TestTruncate(t *testing.T) {
	dir := wordModel(t, "bert-classify")
	short := pairJob(t, dir)
	short.Truncate, short.Inference.MaxOutTokens = true, 6
	logits := func(j *config.Job, row int) []float32 { return column[[]float32](t, outcomeOf(t, 1, j)[row]["logits"]) }
	ids := func(ids ...int32) *config.Job { return encoderJob(t, retyped(t, 4), config.Classify, idRows(t, ids)) }
	nearTo(t, "a pair, both of which give", logits(short, 0), logits(ids(2, 7, 8, 3, 9, 3), 0), 1e-5)
	single := encoderJob(t, dir, config.Classify, writeLines(t, `{"prompt": "w7 w8 w150 w9"}`+"\n"+`{"prompt": "w7 w8"}`+"\n"))
	single.PromptColumn, single.IDsColumn, single.Inference.MaxOutTokens = "prompt", "", 4
	truncated := *single
	truncated.Truncate, truncated.Output = true, filepath.Join(t.TempDir(), "out")
	nearTo(t, "a text", logits(&truncated, 0), logits(ids(2, 7, 8, 3), 0), 1e-5)
	whole, err := runRanks(t, 1, single, RunOptions{})
	if err != nil || whole.Bad != 1 || !strings.Contains(whole.FirstBad.Error, "--truncate") {
		t.Errorf("without --truncate: %+v, %v", whole, err)
	}
}

// TestPoolingOfTheFolder is told of where a job pools in another way.
func TestPoolingOfTheFolder(t *testing.T) {
	dir := wordModel(t, "bert-embed")
	if err := os.Mkdir(filepath.Join(dir, "1_Pooling"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := `{"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false}`
	if err := os.WriteFile(filepath.Join(dir, "1_Pooling", "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	was := slog.Default()
	defer slog.SetDefault(was)
	for pooling, told := range map[string]bool{"mean": true, "cls": false, "last": true} {
		var log strings.Builder
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		j := encoderJob(t, dir, config.Embed, idRows(t, []int32{2, 9, 3}))
		j.Pooling = pooling
		if _, err := runRanks(t, 1, j, RunOptions{}); err != nil || strings.Contains(log.String(), "there=cls --pooling="+pooling) != told {
			t.Errorf("%s: %s, %v", pooling, log.String(), err)
		}
	}
}
