package chat

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

// folder is a template and what the reference made of chats with it; testdata/README.md tells how.
type folder struct {
	Folder   string
	Template string
	File     struct {
		SpecialTokens json.RawMessage `json:"special_tokens"`
		Now           string
		Cases         []struct {
			Name, Template      string
			Messages            []json.RawMessage
			AddGenerationPrompt bool `json:"add_generation_prompt"`
			ContinueLast        bool `json:"continue_final_message"`
			Kwargs              json.RawMessage
			Expected            *string
			Error               *struct{ Type, Message string }
		}
	}
}

func readCases(t testing.TB) (all []folder) {
	f, err := os.Open("testdata/cases.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one folder
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	if err := lines.Err(); err != nil || len(all) != 15 {
		t.Fatalf("%d folders: %v", len(all), err)
	}
	return all
}

// chatOf is case i as Render takes it, and the template and its tokens.
func (f *folder) chatOf(t testing.TB, i int) (c *Chat, source string, tokens *dict) {
	x := f.File.Cases[i]
	now, err := time.Parse("2006-01-02T15:04:05", f.File.Now)
	if err != nil {
		t.Fatal(err)
	}
	c = &Chat{Messages: x.Messages, AddGenerationPrompt: x.AddGenerationPrompt, ContinueLast: x.ContinueLast,
		Now: now}
	object := func(raw json.RawMessage) *dict {
		v, err := parseJSON(raw)
		if err != nil {
			t.Fatal(err)
		}
		return v.(*dict)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(x.Kwargs, &raw); err != nil {
		t.Fatal(err)
	}
	for _, k := range object(x.Kwargs).keys {
		if name := k.(string); name == "tools" {
			c.Tools = raw[name]
		} else {
			c.Variables = append(c.Variables, Variable{name, raw[name]})
		}
	}
	source = f.Template
	if x.Template != "" {
		source = x.Template
	}
	return c, source, object(f.File.SpecialTokens)
}

func TestTemplatesAsTransformersRendersThem(t *testing.T) {
	total := 0
	for _, f := range readCases(t) {
		for i, x := range f.File.Cases {
			total++
			c, source, tokens := f.chatOf(t, i)
			var got string
			template, err := Parse(source)
			if err == nil {
				got, err = template.render(c, tokens)
			}
			var ours *Error
			switch {
			case x.Expected != nil && (err != nil || got != *x.Expected):
				t.Errorf("%s/%s: %v\n got %q\nwant %q", f.Folder, x.Name, err, got, *x.Expected)
			case x.Expected == nil && err == nil:
				t.Errorf("%s/%s: no error; the reference has %v\n got %q", f.Folder, x.Name, *x.Error, got)
			case x.Expected == nil && x.Error.Type == raised && err.Error() != x.Error.Message:
				t.Errorf("%s/%s: %q, want %q", f.Folder, x.Name, err, x.Error.Message)
			case x.Expected == nil && errors.As(err, &ours) && (ours.Kind != x.Error.Type || ours.Message != x.Error.Message):
				t.Logf("%s/%s: worded otherwise: %s %q; the reference: %s %q", f.Folder, x.Name, ours.Kind, ours.Message, x.Error.Type, x.Error.Message)
			}
		}
	}
	if total < 400 {
		t.Errorf("only %d cases", total)
	}
}
