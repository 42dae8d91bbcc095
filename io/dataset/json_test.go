package dataset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	columns := Columns{ID: "id"}
	for _, c := range []struct {
		name, line string
		prompt     string
		bad        string // part of the reason
	}{
		{"plain", `{"id":1,"prompt":"a"}`, "a", ""},
		{"spaces", " { \"id\" : 2 ,\t\"prompt\" : \"a b\" } \r", "a b", ""},
		{"escapes", `{"id":1,"prompt":"\u00e9\ud83d\ude00\/\\\"\b\f\n\r\t\u0000"}`, "é😀/\\\"\b\f\n\r\t\x00", ""},
		{"other keys", `{"x":{"y":[1,-2.5e+3,null,true,false,{}],"z":""},"prompt":"a","id":0}`, "a", ""},
		{"empty", `{"id":1,"prompt":""}`, "", ""},
		{"text after", `{"id":1,"prompt":"a"} b`, "", "text after the value"},
		{"two values", `{"id":1,"prompt":"a"}{}`, "", "text after the value"},
		{"array", `["a"]`, "", "not a JSON object"},
		{"number", `3`, "", "not a JSON object"},
		{"twice", `{"id":1,"prompt":"a","prompt":"b"}`, "", `"prompt" twice`},
		{"no prompt", `{"id":1}`, "", "prompt is missing"},
		{"no id", `{"prompt":"a"}`, "", "id is missing"},
		{"null id", `{"prompt":"a","id":null}`, "", "id is null"},
		{"half an id", `{"prompt":"a","id":1.5}`, "", "id is neither"},
		{"null", `{"id":1,"prompt":null}`, "", "prompt is null"},
		{"not a text", `{"id":1,"prompt":4}`, "", "prompt is not a text"},
		{"raw tab", "{\"id\":1,\"prompt\":\"a\tb\"}", "", "control character"},
		{"lone high surrogate", `{"id":1,"prompt":"\ud83d"}`, "", "surrogate"},
		{"lone low surrogate", `{"id":1,"prompt":"\ude00\ud83d"}`, "", "surrogate"},
		{"unknown escape", `{"id":1,"prompt":"\x41"}`, "", "unknown escape"},
		{"short escape", `{"id":1,"prompt":"\u12"}`, "", "malformed escape"},
		{"bad UTF-8", "{\"id\":1,\"prompt\":\"a\xff\"}", "", "UTF-8"},
		{"bad UTF-8 elsewhere", "{\"id\":1,\"prompt\":\"a\",\"x\":\"\xc3\"}", "", "UTF-8"},
		{"bad UTF-8 after an escape", "{\"id\":1,\"prompt\":\"\\n\xc0\xaf\"}", "", "UTF-8"},
		{"single quotes", `{'id':1}`, "", "no key in quotes"},
		{"NaN", `{"id":1,"prompt":"a","x":NaN}`, "", "no value"},
		{"leading zero", `{"id":1,"prompt":"a","x":01}`, "", "malformed number"},
		{"bare point", `{"id":1,"prompt":"a","x":1.}`, "", "malformed number"},
		{"trailing comma", `{"id":1,"prompt":"a",}`, "", "no key in quotes"},
		{"cut in a text", `{"id":1,"prompt":"a`, "", "ends inside a string"},
		{"cut in an object", `{"id":1,"prompt":"a"`, "", "ends inside a value"},
		{"too deep", `{"id":1,"prompt":"a","x":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`, "", "too deep"},
		{"half of tokens", `{"id":1,"prompt":"a","max_new_tokens":1.5}`, "", "max_new_tokens is not an integer"},
		{"too many tokens", `{"id":1,"prompt":"a","max_new_tokens":3000000000}`, "", "does not fit in 32 bits"},
		{"stop of numbers", `{"id":1,"prompt":"a","stop":[1]}`, "", "stop is not a text"},
		{"infinite", `{"id":1,"prompt":"a","temperature":1e999}`, "", "temperature is a number that does not fit"},
	} {
		path := filepath.Join(t.TempDir(), "x.jsonl")
		writeFile(t, path, []byte(`{"prompt":"first","id":7}`+"\n"+c.line))
		row := all(t, open(t, columns, path), 10, false)[1]
		switch {
		case row.Err == nil && c.bad != "":
			t.Errorf("%s: %q is good, want %q", c.name, row.Prompt, c.bad)
		case row.Err != nil && (c.bad == "" || !strings.Contains(row.Err.Error(), c.bad)):
			t.Errorf("%s: %v, want %q", c.name, row.Err, c.bad)
		case row.Prompt != c.prompt || row.Err != nil && row.Err.Row != 1:
			t.Errorf("%s: %q (%v), want %q", c.name, row.Prompt, row.Err, c.prompt)
		}
	}
}

func TestLineSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.jsonl")
	writeFile(t, path, []byte(`{"prompt":"a","max_new_tokens":4.0,"min_new_tokens":2,"temperature":1,"top_k":40,"top_p":0.5,"seed":-9223372036854775808,"stop":["x","\n"]}
{"prompt":"b","max_new_tokens":null,"stop":"end"}`))
	rows := all(t, open(t, Columns{}, path), 10, false)
	tokens, least, k, seed, temperature, p := int32(4), int32(2), int32(40), int64(-1<<63), 1.0, 0.5
	want := []Overrides{{&tokens, &least, &temperature, &k, &p, &seed, []string{"x", "\n"}}, {Stop: []string{"end"}}}
	if diff := cmp.Diff(want, []Overrides{rows[0].Overrides, rows[1].Overrides}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMessagesInLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.jsonl")
	writeFile(t, path, []byte(`{"m":[{"role":"user","content":"a<b","n":1.0,"z":1,"a":[2,1e2]},{"role":"tool"}]}
{"m":"[{\"role\":\"user\"}]"}
{"m":[]}
{"m":["x"]}
{"m":null}
{"m":{"role":"user"}}`))
	rows := all(t, open(t, Columns{Messages: "m"}, path), 10, false)
	want := []json.RawMessage{json.RawMessage(`{"role":"user","content":"a<b","n":1.0,"z":1,"a":[2,1e2]}`), json.RawMessage(`{"role":"tool"}`)}
	if diff := cmp.Diff(want, rows[0].Messages); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(rows[1].Messages) != 1 || string(rows[1].Messages[0]) != `{"role":"user"}` {
		t.Errorf("messages in a text: %v %s", rows[1].Err, rows[1].Messages)
	}
	tooled := filepath.Join(t.TempDir(), "tools.jsonl")
	writeFile(t, tooled, []byte(`{"m":[{"role":"user"}],"t":[{"type":"function","function":{"name":"f","n":1.0}}]}
{"m":[{"role":"user"}],"t":"[{\"b\":1,\"a\":2}]"}
{"m":[{"role":"user"}],"t":[]}
{"m":[{"role":"user"}],"t":null}
{"m":[{"role":"user"}]}
{"m":[{"role":"user"}],"t":[1]}`))
	tools := []string{`[{"type":"function","function":{"name":"f","n":1.0}}]`, `[{"b":1,"a":2}]`, "[]", "[]", "[]"}
	for i, row := range all(t, open(t, Columns{Messages: "m", Tools: "t"}, tooled), 10, false) {
		switch text := fmt.Sprintf("%s", row.Tools); {
		case i == len(tools) && (row.Err == nil || !strings.Contains(row.Err.Error(), "t has something other than an object at position 0")):
			t.Errorf("tools that are none: %v", row.Err)
		case i < len(tools) && (row.Err != nil || text != tools[i]):
			t.Errorf("tools of row %d: %s, %v, want %s", i, text, row.Err, tools[i])
		}
	}
	for i, bad := range []string{"empty list", "other than an object", "is null", "not a list"} {
		if row := rows[i+2]; row.Err == nil || !strings.Contains(row.Err.Error(), bad) {
			t.Errorf("row %d: %v, want %q", i+2, row.Err, bad)
		}
	}
}

// Lines in the middle of many are found by marks, blank ones and a BOM not counted.
func TestLinesAnywhere(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("\xef\xbb\xbf\n")
	texts := prompts(9000)
	for i, line := range bytes.SplitAfter(jsonLines(texts), []byte("\n")) {
		b.Write(line)
		if i%7 == 0 {
			b.WriteString(" \t\r\n")
		}
	}
	path := filepath.Join(t.TempDir(), "x.jsonl")
	writeFile(t, path, b.Bytes())
	for _, columns := range []Columns{{}, {ID: "id"}} { // one looks at some lines, one at all
		set := open(t, columns, path)
		if set.Rows() != 9000 {
			t.Fatalf("%d rows", set.Rows())
		}
		for i, row := range all(t, set, 613, true) {
			if row.Prompt != string(texts[i]) || columns.ID != "" && row.ID != int64(i) {
				t.Fatalf("row %d: %v %q", i, row.ID, row.Prompt)
			}
		}
	}
}

// A line longer than the limit is one bad row, is not held, and the next line follows.
func TestLongLines(t *testing.T) {
	const long = 64 << 20
	l := &lines{limit: 1 << 20, r: bufio.NewReaderSize(io.MultiReader(strings.NewReader("a\n"), io.LimitReader(zeros{}, long), strings.NewReader("\nb")), 64<<10)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var got []string
	for {
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		got = append(got, fmt.Sprint(string(line), err))
	}
	runtime.ReadMemStats(&after)
	if want := []string{"a<nil>", errLong.Error(), "b<nil>"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
		t.Errorf("took %d MB", took>>20)
	}
	if n, err := (&lines{limit: 10, r: bufio.NewReader(strings.NewReader("0123456789abc\n\nx"))}).pass(9); n != 2 || err != nil {
		t.Errorf("%d lines passed, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// What jsonScan accepts, encoding/json accepts and reads alike; what it refuses beyond that is bad UTF-8, halves of
// surrogate pairs and depth.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\u00e9\ud83d\ude00",null,true,{}]}`, `"\ud800"`, "\"\xff\"", `-0`, `01`, `{"a":1,}`, ` [ ] `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := jsonScan{b: b}
		err := s.value()
		if err == nil {
			err = s.end()
		}
		var want any
		std := json.Unmarshal(b, &want)
		if err == nil && std != nil && !strings.Contains(std.Error(), "range") {
			t.Errorf("%q accepted; encoding/json: %v", b, std)
		}
		if err != nil && std == nil && utf8.Valid(b) && !strings.Contains(err.Error(), "surrogate") && !strings.Contains(err.Error(), "too deep") {
			t.Errorf("%q: %v; encoding/json accepts it", b, err)
		}
		if text, is := want.(string); is && err == nil {
			if got, err := jsonString(bytes.TrimSpace(b)); err != nil || got != text {
				t.Errorf("%q reads as %q (%v), want %q", b, got, err, text)
			}
		}
	})
}
