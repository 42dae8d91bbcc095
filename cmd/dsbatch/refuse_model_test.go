package main_test

import (
	"archive/zip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// safetensors is a file taken apart, so that a test can spoil it.
type safetensors struct {
	header map[string]map[string]any
	data   []byte
}

func readSafetensors(t testing.TB, path string) *safetensors {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := 8 + binary.LittleEndian.Uint64(file)
	s := &safetensors{data: file[end:]}
	if err := json.Unmarshal(file[8:end], &s.header); err != nil {
		t.Fatal(err)
	}
	delete(s.header, "__metadata__")
	return s
}

func (s *safetensors) write(t testing.TB, path string) {
	t.Helper()
	header, err := json.Marshal(s.header)
	if err != nil {
		t.Fatal(err)
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	if err := os.WriteFile(path, append(append(file, header...), s.data...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// aTensor is one of the model that is spoiled: an expert's, [48, 32] in float32.
const aTensor = "model.layers.1.block_sparse_moe.experts.3.w1.weight"

// spoiledModels are ways to spoil the golden Mixtral, each with words that the refusal has to say.
var spoiledModels = []struct {
	name  string
	spoil func(t *testing.T, folder string, s *safetensors)
	say   []string
}{
	{"a tensor is missing", func(_ *testing.T, _ string, s *safetensors) {
		s.header["something.else"] = s.header[aTensor]
		delete(s.header, aTensor)
	}, []string{aTensor, "missing"}},
	{"a tensor has another shape", func(_ *testing.T, _ string, s *safetensors) { s.header[aTensor]["shape"] = []int{32, 48} },
		[]string{aTensor, "32", "48"}},
	{"a tensor's bytes are not its shape's", func(_ *testing.T, _ string, s *safetensors) { s.header[aTensor]["shape"] = []int{48, 33} },
		[]string{aTensor, "model.safetensors"}},
	{"the file is cut off", func(_ *testing.T, _ string, s *safetensors) { s.data = s.data[:len(s.data)/2] }, []string{"model.safetensors"}},
	{"the file ends in its header", func(t *testing.T, folder string, _ *safetensors) {
		cut(t, filepath.Join(folder, "model.safetensors"), 100)
	},
		[]string{"model.safetensors"}},
	{"tensors overlap", func(_ *testing.T, _ string, s *safetensors) {
		s.header[aTensor]["data_offsets"] = s.header["model.layers.1.block_sparse_moe.experts.2.w1.weight"]["data_offsets"]
	}, []string{aTensor, "model.safetensors"}},
	{"offsets lie outside the file", func(_ *testing.T, _ string, s *safetensors) {
		s.header["model.norm.weight"]["data_offsets"] = []int64{1 << 60, 1<<60 + 32*4}
	}, []string{"model.norm.weight", "model.safetensors"}},
	{"offsets run backwards", func(_ *testing.T, _ string, s *safetensors) { s.header[aTensor]["data_offsets"] = []int64{6144, 0} },
		[]string{aTensor, "model.safetensors"}},
	{"the config has more experts", config("num_local_experts", 9), []string{"experts"}},
	{"the config has other widths", config("hidden_size", 64), []string{"32", "64"}},
	{"the config has another vocabulary", config("vocab_size", 200), []string{"160", "200"}},
	{"the config has more layers", config("num_hidden_layers", 3), []string{"model.layers.2"}},
	{"the config is no JSON", func(t *testing.T, folder string, _ *safetensors) {
		replace(t, filepath.Join(folder, "config.json"), "{\n \"hidden_size\": }")
	}, []string{"config.json"}},
	{"the config is missing", func(t *testing.T, folder string, _ *safetensors) { remove(t, filepath.Join(folder, "config.json")) },
		[]string{"config.json"}},
	{"the family is unknown", config("architectures", []string{"BananaForCausalLM"}), []string{"BananaForCausalLM"}},
	{"the weights are missing", func(t *testing.T, folder string, s *safetensors) { s.header = nil }, []string{"model"}},
}

// TestSpoiledModelsAreRefused spoils a model folder in every way above.
func TestSpoiledModelsAreRefused(t *testing.T) {
	ids := write(t, "ids.jsonl", "{\"ids\": [5, 6, 7]}\n{\"ids\": [9]}\n")
	whole := filepath.Join(goldens, "mixtral")
	args := func(model, output string, more ...string) []string {
		return append([]string{"run", "--model", model, "--input", ids, "--ids-column", "ids", "--output", output, "--max-new-tokens", "4", "--threads", "1"}, more...)
	}
	dsbatch(t, args(whole, filepath.Join(t.TempDir(), "out"))...).want(t, done) // so that only the damage is refused
	for _, c := range spoiledModels {
		t.Run(c.name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "spoiled")
			if err := os.CopyFS(folder, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(folder, "model.safetensors")
			s := readSafetensors(t, path)
			before := len(s.header)
			c.spoil(t, folder, s)
			switch st, err := os.Stat(path); {
			case s.header == nil:
				remove(t, path)
			case err == nil && st.Size() == 100 && before == len(s.header): // cut by the case itself
			default:
				s.write(t, path)
			}
			output := filepath.Join(t.TempDir(), "out")
			refused(t, badConfig, args(folder, output), c.say...)
			dsbatch(t, args(whole, output)...).want(t, done) // mended: the same command goes on
		})
	}
}

// config is a spoiler that changes one value of config.json.
func config(key string, value any) func(*testing.T, string, *safetensors) {
	return func(t *testing.T, folder string, _ *safetensors) {
		path := filepath.Join(folder, "config.json")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]any{}
		if err := json.Unmarshal(text, &values); err != nil {
			t.Fatal(err)
		}
		values[key] = value
		if text, err = json.Marshal(values); err != nil {
			t.Fatal(err)
		}
		replace(t, path, string(text))
	}
}

func replace(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func cut(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// refused runs a command that has to be refused with a status, in one line that says all the words, and without
// leaving a part or a report.
func refused(t *testing.T, status int, args []string, say ...string) {
	t.Helper()
	e := dsbatch(t, args...)
	text := lines(e.stderr)
	t.Logf("status %d: %s", e.status, strings.Join(text, "\n"))
	if e.status != status {
		t.Errorf("status %d, want %d", e.status, status)
	}
	if len(text) != 1 || !strings.HasPrefix(text[0], "dsbatch: ") {
		t.Errorf("%d lines, want one that begins with dsbatch:\n%s", len(text), e.stderr)
	}
	for _, word := range append(say, "") {
		if !strings.Contains(e.stderr, word) {
			t.Errorf("it does not say %q", word)
		}
	}
	for _, word := range []string{"panic", "goroutine", "runtime error", "%!"} {
		if strings.Contains(e.stderr, word) {
			t.Errorf("it says %q", word)
		}
	}
	for i, arg := range args {
		if arg == "--output" && i+1 < len(args) {
			if parts, _ := filepath.Glob(filepath.Join(args[i+1], "[^_]*")); len(parts) > 0 {
				t.Errorf("it left %v", parts)
			}
		}
	}
}

// TestModelFolders gives what is no model at all.
func TestModelFolders(t *testing.T) {
	output := func() string { return filepath.Join(t.TempDir(), "out") }
	t.Run("missing", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "gone")
		refused(t, noInput, job(output(), "--model", folder), folder)
	})
	t.Run("empty", func(t *testing.T) {
		folder := t.TempDir()
		refused(t, badConfig, job(output(), "--model", folder), folder, "empty")
	})
	t.Run("no model in it", func(t *testing.T) {
		folder := filepath.Dir(write(t, "notes.txt", "nothing"))
		refused(t, badConfig, job(output(), "--model", folder), folder)
	})
	t.Run("a tag that is not there", func(t *testing.T) {
		refused(t, badConfig, job(output(), "--tag", "global_step9"), "global_step9", "global_step3984")
	})
	t.Run("a tokenizer of another model", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "mixed")
		if err := os.CopyFS(folder, os.DirFS(filepath.Join(goldens, "mixtral"))); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(bundled, "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(folder, "tokenizer.json"), string(text))
		refused(t, badConfig, job(output(), "--model", folder), "tokenizer", "another model", "160")
	})
	t.Run("settings of experts for a dense model", func(t *testing.T) {
		dense := []string{"--model", filepath.Join(goldens, "llama"), "--input", write(t, "ids.jsonl", `{"ids": [1, 2, 3]}`), "--ids-column", "ids"}
		for _, c := range []struct{ flag, value, say string }{
			{"--drop-tokens", "true", "no token to drop"},
			{"--expert-placement", write(t, "placement.json", `{"format": 1, "layers": []}`), "no experts to place"},
			{"--expert-output-bias", "add", "no experts"},
			{"--ep", "2", "no experts"},
			{"--es", "2", "no experts"},
		} {
			args := append(append([]string{"run", "--output", output(), "--ranks", "2"}, dense...), c.flag+"="+c.value)
			refused(t, badConfig, args, c.say)
		}
	})
	t.Run("no tokenizer", func(t *testing.T) {
		refused(t, badConfig, job(output(), "--model", filepath.Join(goldens, "mixtral")), "tokenizer", "--ids-column")
	})
	t.Run("a broken tokenizer", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "broken")
		if err := os.CopyFS(folder, os.DirFS(filepath.Join(goldens, "mixtral"))); err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(folder, "tokenizer.json"), `{"model": {"type": "BPE"`)
		refused(t, badConfig, job(output(), "--model", folder), "tokenizer.json")
	})
}

// TestForeignClassRunsNothing gives a PyTorch file whose pickle asks for a command to be run.
func TestForeignClassRunsNothing(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(goldens, "mixtral"))); err != nil {
		t.Fatal(err)
	}
	remove(t, filepath.Join(folder, "model.safetensors"))
	proof := filepath.Join(t.TempDir(), "it-ran")
	file, err := os.Create(filepath.Join(folder, "pytorch_model.bin"))
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	for name, content := range map[string]string{
		"archive/data.pkl": "\x80\x02cposix\nsystem\nX" + string(binary.LittleEndian.AppendUint32(nil, uint32(len("touch "+proof)))) + "touch " + proof + "\x85R.",
		"archive/version":  "3\n",
	} {
		w, err := archive.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	ids := write(t, "ids.jsonl", "{\"ids\": [5, 6, 7]}\n")
	refused(t, badConfig, []string{"run", "--model", folder, "--input", ids, "--ids-column", "ids", "--output", filepath.Join(t.TempDir(), "out")},
		"pytorch_model.bin", "posix", "system")
	refused(t, badConfig, []string{"ckpt", "inspect", folder}, "posix", "system")
	if _, err := os.Stat(proof); err == nil {
		t.Error("the command was run")
	}
}

// TestStopsWithoutTokenizer: stop strings are texts, so that a model without a tokenizer has none: the job's are refused, and a
// row with its own is set aside.
func TestStopsWithoutTokenizer(t *testing.T) {
	model := t.TempDir()
	entries, err := os.ReadDir(bundled)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		from, err := filepath.Abs(filepath.Join(bundled, entry.Name()))
		if err == nil && !strings.HasPrefix(entry.Name(), "tokenizer") {
			err = os.Symlink(from, filepath.Join(model, entry.Name()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rows := write(t, "ids.jsonl", `{"ids": [5, 6]}`+"\n"+`{"ids": [7], "stop": "a"}`+"\n")
	output := filepath.Join(t.TempDir(), "out")
	args := job(output, "--model", model, "--input", rows, "--ids-column", "ids")
	refused(t, badConfig, append(args, "--stop", "a"), "--stop", "no tokenizer")
	dsbatch(t, args...).want(t, badRows)
	if got := head(t, output); got[0]["error"] != nil || !strings.Contains(fmt.Sprint(got[1]["error"]), "no tokenizer") {
		t.Errorf("%v", got)
	}
}
