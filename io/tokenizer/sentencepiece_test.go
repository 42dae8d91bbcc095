package tokenizer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// modelFolder is a folder with tokenizer.model alone, and a config.
func modelFolder(t testing.TB, model []byte, config string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"tokenizer.model": model, "tokenizer_config.json": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestSentencePiece: a model that sentencepiece 0.2.3 has trained, with what tokenizers 0.22.2 makes of it as transformers
// converts it. Where no special token stands in the text, sentencepiece itself gives the same ids.
func TestSentencePiece(t *testing.T) {
	model := readWhole(t, "sentencepiece", "tokenizer.model")
	byLegacy := map[bool]*Tokenizer{}
	for legacy, config := range map[bool]string{true: `{}`, false: `{"tokenizer_class": "LlamaTokenizer", "legacy": false}`} {
		tokens, err := Load(modelFolder(t, model, config))
		if err != nil {
			t.Fatal(err)
		}
		byLegacy[legacy] = tokens
	}
	n := 0
	for line := range bytes.Lines(readWhole(t, "sentencepiece", "cases.jsonl")) {
		var c struct {
			Legacy        bool
			Text, Decoded string
			IDs           []int32
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		n++
		tokens := byLegacy[c.Legacy]
		if got, err := tokens.Encode(c.Text, true); err != nil || !slices.Equal(got, c.IDs) {
			t.Errorf("legacy %v: %q: %v, %v, want %v", c.Legacy, c.Text, err, got, c.IDs)
		}
		if got := tokens.Decode(c.IDs, false); got != c.Decoded {
			t.Errorf("legacy %v: %v: %q, want %q", c.Legacy, c.IDs, got, c.Decoded)
		}
	}
	if n != 120 || byLegacy[true].Digest() == byLegacy[false].Digest() {
		t.Errorf("%d cases, digests %x and %x", n, byLegacy[true].Digest(), byLegacy[false].Digest())
	}
	around, err := Load(modelFolder(t, model, `{"add_bos_token": false, "add_eos_token": true, "eos_token": "</s>"}`))
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := around.Encode("", true); err != nil || !slices.Equal(ids, []int32{2}) {
		t.Errorf("no BOS and an EOS: %v, %v", err, ids)
	}
	if id, ok := around.EOS(); !ok || id != 2 {
		t.Errorf("end token %d, %v", id, ok)
	}
	ids, segments, err := byLegacy[true].EncodePair("", "")
	if err != nil || !slices.Equal(ids, []int32{1, 1}) || !slices.Equal(segments, []int32{0, 1}) {
		t.Errorf("%v, pair %v, segments %v", err, ids, segments)
	}
}

// TestSentencePieceOfFamily: LLaMA-2's vocabulary, written as a model whose scores are the merges' ranks, gives its ids, but
// where a piece has more than one way to be made, of which training lists one and a model has all.
func TestSentencePieceOfFamily(t *testing.T) {
	want := load(t, "llama2")
	var file struct{ Model bpeFile }
	if err := json.Unmarshal(readWhole(t, "llama2", "tokenizer.json"), &file); err != nil {
		t.Fatal(err)
	}
	rank := map[string]float32{}
	for i, pair := range file.Model.Merges {
		rank[pair[0]+pair[1]] = -float32(i)
	}
	tokens, err := Load(modelFolder(t, modelProto(want.names, rank, modelBPE), `{}`))
	if err != nil {
		t.Fatal(err)
	}
	same, all := 0, 0
	for _, a := range answers(t, "llama2", "text") {
		got, err := tokens.Encode(a.Text, true)
		if err != nil {
			t.Fatal(err)
		}
		if all++; slices.Equal(got, a.Special) {
			same++
		}
		if text, like := tokens.Decode(got, true), want.Decode(a.Special, true); text != like {
			t.Errorf("%q: decoded %q, want %q", a.Text, text, like)
		}
	}
	if same < all*9/10 {
		t.Errorf("%d of %d texts have the same ids", same, all)
	}
}

// modelProto writes pieces as SentencePiece does: the first three are <unk>, <s> and </s>.
func modelProto(pieces []string, scores map[string]float32, kind byte) (model []byte) {
	for i, piece := range pieces {
		kind := byte(1)
		switch {
		case i == 0:
			kind = pieceUnknown
		case i < 3:
			kind = pieceControl
		}
		entry := append([]byte{1<<3 | 2, byte(len(piece))}, piece...)
		entry = binary.LittleEndian.AppendUint32(append(entry, 2<<3|5), math.Float32bits(scores[piece]))
		entry = append(entry, 3<<3, kind)
		model = append(append(model, 1<<3|2, byte(len(entry))), entry...)
	}
	return append(model, 2<<3|2, 2, 3<<3, kind)
}

func TestSentencePieceRefused(t *testing.T) {
	const three = "\x0a\x09\x0a\x05<unk>\x18\x02"
	for _, c := range []struct{ model, config, want string }{
		{"", `{}`, "tokenizer.model: it holds no pieces"},
		{"IQ== 0\n", `{}`, "byte "},
		{"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", `{}`, "is cut off"},
		{"\x0a\x03\x0a\x05a", `{}`, "piece 0: byte 0: a field of 5 bytes is cut off"},
		{"\x0a\x03\x15\x00\x00", `{}`, "piece 0: byte 0: a number is cut off"},
		{"\x0a\x03\x0a\x01\xff", `{}`, `piece 0: "\xff" is not UTF-8`},
		{"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f", `{}`, `piece 0: the score of "a" is no number`},
		{three + "\x12\x02\x18\x01", `{}`, "a model of type 1 (1 is Unigram, 2 BPE)"},
		{three, `{}`, "a model of type 1"},
		{three + three + "\x12\x02\x18\x02", `{}`, `piece 1: "<unk>" is piece 0 too`},
		{three + "\x12\x02\x18\x02", `{}`, `no piece is "<s>"`},
		{"\x0a\x03\x0a\x01a\x12\x02\x18\x02", `{}`, "no piece is the unknown one"},
		{three + "\x12\x02\x18\x02", `{"tokenizer_class": "T5Tokenizer"}`, "T5Tokenizer with tokenizer.model alone is not supported"},
		{three + "\x12\x02\x18\x02", `{"add_prefix_space": false}`, "add_prefix_space false is not supported"},
	} {
		if _, err := Load(modelFolder(t, []byte(c.model), c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %s: %v, want %q", c.model, c.config, err, c.want)
		}
	}
}

// FuzzSentencePiece: what is accepted can be written as a pipeline or is refused, without a panic.
func FuzzSentencePiece(f *testing.F) {
	f.Add(readWhole(f, "sentencepiece", "tokenizer.model"))
	f.Add([]byte("\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x03\x0a\x01a\x12\x02\x18\x02"))
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := readSentencePiece(file)
		if err != nil {
			return
		}
		no := false
		raw, err := m.pipeline(config{AddBOS: &no})
		if err != nil {
			return
		}
		tokens, err := parse(raw)
		if err != nil {
			return
		}
		if _, err := tokens.Encode("a b é", true); err != nil {
			t.Error(err)
		}
	})
}
