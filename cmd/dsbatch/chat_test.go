package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/io/dataset"
)

const chatTemplate = `{{ bos_token }}{% for m in messages %}
{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('nobody is a ' ~ m.role) }}{% endif %}
{{ m.role | capitalize }}: {{ m.content | trim }}
{% endfor %}
On {{ strftime_now('%d %B %Y') }}{{ ', ' ~ mood if mood is defined }},{% if add_generation_prompt %} she said{% endif %}`

// chatModel is the bundled model with a chat template, and a tokenizer that puts the end token before every text.
func chatModel(t testing.TB, template string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(folder, os.DirFS(bundled)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(map[string]any){
		"tokenizer_config.json": func(config map[string]any) { config["chat_template"] = template },
		"tokenizer.json": func(pipeline map[string]any) {
			const end = "<|endoftext|>"
			pipeline["post_processor"] = map[string]any{
				"type":           "TemplateProcessing",
				"single":         []any{map[string]any{"SpecialToken": map[string]any{"id": end, "type_id": 0}}, map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}},
				"pair":           []any{map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}, map[string]any{"Sequence": map[string]any{"id": "B", "type_id": 1}}},
				"special_tokens": map[string]any{end: map[string]any{"id": end, "ids": []int{0}, "tokens": []string{end}}},
			}
		},
	} {
		path := filepath.Join(folder, name)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		edit(fields)
		if raw, err = json.Marshal(fields); err != nil {
			t.Fatal(err)
		}
		replace(t, path, string(raw))
	}
	return folder
}

// answers sends lines through dsbatch tokenize.
func answers(t testing.TB, in []string, args ...string) (out []map[string]any) {
	t.Helper()
	for _, line := range lines(feed(t, strings.Join(in, "\n"), append([]string{"tokenize"}, args...)...).want(t, done).stdout) {
		var a map[string]any
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	if len(out) != len(in) {
		t.Fatalf("%d answers to %d lines", len(out), len(in))
	}
	return out
}

// TestChats: the same chats in Parquet, Arrow and JSON Lines give the rows that the ids of the rendered texts give, which
// get no further special tokens.
func TestChats(t *testing.T) {
	formats, at := absolute("../../io/dataset/testdata/formats"), []string{"--now", "2025-07-06T14:05:09"}
	model := chatModel(t, chatTemplate)
	rows, err := dataset.Open(t.Context(), []string{filepath.Join(formats, "messages.parquet")}, dataset.Columns{Messages: "messages"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var asLines, chats []string
	for row, err := range rows.Read(t.Context(), 0, 0, 24) {
		if err != nil || row.Err != nil {
			t.Fatal(err, row.Err)
		}
		messages, err := json.Marshal(row.Messages)
		if err != nil {
			t.Fatal(err)
		}
		asLines = append(asLines, fmt.Sprintf(`{"chat": %s}`, messages))
		chats = append(chats, fmt.Sprintf(`{"messages": %s, "add_generation_prompt": true, "now": "2025-07-06T14:05:09"}`, messages))
	}
	var texts, ids []string
	for i, a := range answers(t, chats, "--chat", "--model", model) {
		text, _ := a["text"].(string)
		if !strings.HasPrefix(text, "<|endoftext|>") || !strings.HasSuffix(text, "\nOn 06 July 2025, she said") {
			t.Fatalf("%s renders as %v", chats[i], a)
		}
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, fmt.Sprintf(`{"text": %s, "special": false}`, quoted))
	}
	for i, a := range answers(t, texts, "--model", model) {
		list, _ := a["ids"].([]any)
		if len(list) == 0 || list[0] != 0.0 || slices.Contains(list[1:], any(0.0)) {
			t.Fatalf("%s gives %v, want one special token", texts[i], a)
		}
		raw, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, string(raw))
	}
	folder := t.TempDir()
	byIDs := filepath.Join(folder, "ids")
	dsbatch(t, job(byIDs, "--model", model, "--input", write(t, "ids.jsonl", strings.Join(ids, "\n")), "--ids-column", "ids")...).want(t, done)
	for name, input := range map[string][]string{
		"parquet": {"--input", filepath.Join(formats, "messages.parquet"), "--messages-column", "messages"},
		"arrow":   {"--input", filepath.Join(formats, "messages.arrow"), "--messages-column", "messages", "--ranks", "2"},
		"lines":   {"--input", write(t, "chats.jsonl", strings.Join(asLines, "\n")), "--messages-column", "chat"},
	} {
		output := filepath.Join(folder, name)
		dsbatch(t, job(output, slices.Concat([]string{"--model", model}, at, input)...)...).want(t, done)
		sameRows(t, byIDs, output)
	}
}

// TestToolsOfRows: a template is given the tools of the row, and those of the job where the row has none.
func TestToolsOfRows(t *testing.T) {
	model := chatModel(t, `{% for tool in tools or [] %}{{ tool.name }}, {% endfor %}{{ messages[0].content }}`)
	chats := write(t, "chats.jsonl", `{"m": [{"role": "user", "content": "She"}], "t": [{"name": "a house"}, {"name": "a <sea>"}]}
{"m": [{"role": "user", "content": "He"}], "t": null}
{"m": [{"role": "user", "content": "It"}], "t": "[{\"name\": \"a word\"}]"}
{"m": [{"role": "user", "content": "They"}]}`)
	var ids []string
	for _, a := range answers(t, []string{`{"text": "a house, a <sea>, She", "special": false}`, `{"text": "nothing, He", "special": false}`,
		`{"text": "a word, It", "special": false}`, `{"text": "nothing, They", "special": false}`}, "--model", model) {
		raw, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, string(raw))
	}
	folder := t.TempDir()
	byIDs, byTools := filepath.Join(folder, "ids"), filepath.Join(folder, "tools")
	dsbatch(t, job(byIDs, "--model", model, "--input", write(t, "ids.jsonl", strings.Join(ids, "\n")), "--ids-column", "ids")...).want(t, done)
	dsbatch(t, job(byTools, "--model", model, "--input", chats, "--messages-column", "m", "--tools-column", "t",
		"--chat-template-kwargs", `{"tools": [{"name": "nothing"}]}`)...).want(t, done)
	sameRows(t, byIDs, byTools)
}

// TestChatsThatCannotBeRendered are set aside with the reason; the others go on, and are scored without what would begin an
// answer.
func TestChatsThatCannotBeRendered(t *testing.T) {
	model := chatModel(t, chatTemplate)
	rows := []struct{ line, say string }{
		{`{"m": [{"role": "user", "content": "Good"}]}`, ""},
		{`{"m": null}`, "m is null"},
		{`{"other": 1}`, "m is missing"},
		{`{"m": []}`, "at least one message"},
		{`{"m": [{"role": "wizard", "content": "x"}]}`, "m: the chat template refuses it: nobody is a wizard"},
		{`{"m": [{"role": "user"}, 7]}`, "something other than an object at position 1"},
		{`{"m": [{"role": "user", "content": "half \ud800 of a pair"}]}`, "JSON"},
		{`{"m": "a text"}`, "not a list of messages"},
		{`{"m": [{"content": "no role"}]}`, "nobody is a "},
		{`{"m": "[{\"role\": \"user\", \"content\": \"Good\"}]"}`, ""},
	}
	var in []string
	for _, r := range rows {
		in = append(in, r.line)
	}
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, "run", "--task", "score", "--output", output, "--model", model, "--messages-column", "m", "--now", "2025-07-06T14:05:09",
		"--input", write(t, "chats.jsonl", strings.Join(in, "\n")), "--chat-template-kwargs", `{"mood": "kindly"}`).want(t, badRows)
	of := head(t, output)
	text := answers(t, []string{`{"text": "<|endoftext|>User: Good\nOn 06 July 2025, kindly,", "special": false}`}, "--model", model)
	scored := float64(len(text[0]["ids"].([]any)) - 1)
	for i, r := range rows {
		reason, _ := of[i]["error"].(string)
		switch {
		case r.say == "" && (reason != "" || of[i]["tokens"] != scored):
			t.Errorf("%s: %v, want %v tokens scored", r.line, of[i], scored)
		case r.say != "" && !strings.Contains(reason, r.say):
			t.Errorf("%s: %q, want a reason that says %q", r.line, reason, r.say)
		}
	}
}

// TestChatOutputGoesOn keeps the template and the time that the output was begun with.
func TestChatOutputGoesOn(t *testing.T) {
	model := chatModel(t, chatTemplate)
	chats := write(t, "chats.jsonl", `{"messages": [{"role": "user", "content": "Good"}]}`)
	output := filepath.Join(t.TempDir(), "out")
	args := []string{"--model", model, "--input", chats, "--messages-column", "messages", "--max-new-tokens", "2"}
	dsbatch(t, job(output, append(args, "--now", "2025-07-06T14:05:09")...)...).want(t, done)
	dsbatch(t, job(output, args...)...).want(t, done)
	foresee := append([]string{"plan"}, job(output, args...)[1:]...)
	dsbatch(t, foresee...).want(t, done)
	for _, c := range []struct {
		more []string
		say  string
	}{
		{[]string{"--now", "2025-07-07T14:05:09"}, "chat time was"},
		{[]string{"--chat-template", write(t, "other.jinja", "{{ messages[0].content }}")}, "chat template was"},
		{[]string{"--chat-template-kwargs", `{"mood": "sadly"}`}, "chat-template-kwargs was not set"},
	} {
		e := dsbatch(t, append(job(output, args...), c.more...)...)
		if e.status != badConfig && e.status != badUsage || !strings.Contains(e.stderr, c.say) {
			t.Errorf("%q: status %d\n%s\nwant it refused with %q", c.more, e.status, e.stderr, c.say)
		}
		if e := dsbatch(t, append(slices.Clone(foresee), c.more...)...); e.status == done || !strings.Contains(e.stderr, c.say) {
			t.Errorf("plan with %q: status %d\n%s", c.more, e.status, e.stderr)
		}
	}
}

// TestChatSettingsThatCannotBeUsed are refused before the output is made, by run and by those that foresee it.
func TestChatSettingsThatCannotBeUsed(t *testing.T) {
	chats := write(t, "chats.jsonl", `{"messages": [{"role": "user", "content": "Good"}]}`)
	template := write(t, "t.jinja", "{{ messages }}")
	input := []string{"--input", chats, "--messages-column", "messages"}
	for _, c := range []struct {
		name   string
		status int
		args   []string
		say    []string
	}{
		{"no template", badConfig, nil, []string{"no chat template", "--chat-template"}},
		{"no such file", badConfig, []string{"--chat-template", "nowhere.jinja"}, []string{"nowhere.jinja"}},
		{"a template that is none", badConfig, []string{"--chat-template", write(t, "bad.jinja", "{% if %}")}, []string{"bad.jinja", "line 1", "Expected an expression"}},
		{"a time that is none", badConfig, []string{"--chat-template", template, "--now", "noon"}, []string{"--now", "2025-07-06T14:05:09"}},
		{"variables that are none", badConfig, []string{"--chat-template", template, "--chat-template-kwargs", "[1]"}, []string{"--chat-template-kwargs", "object"}},
		{"a column that is none", badData, []string{"--chat-template", template, "--input", prompts, "--messages-column", "prompts"}, []string{`no column "prompts"`}},
		{"a column of another type", badData, []string{"--chat-template", template, "--input", absolute("../../io/dataset/testdata/formats/ids-list-int32.parquet"), "--messages-column", "input_ids"}, []string{"input_ids", "a list of messages"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(slices.Clone(c.args), input...)
			if slices.Contains(c.args, "--input") {
				args = c.args
			}
			output := filepath.Join(t.TempDir(), "out")
			for _, command := range []string{"run", "plan", "submit"} {
				all := job(output, args...)
				all[0] = command
				if command == "submit" {
					all = append(all, "--dry-run")
				}
				refused(t, c.status, all, c.say...)
			}
		})
	}
	refused(t, badUsage, job(filepath.Join(t.TempDir(), "out"), "--chat-template", template), "--messages-column")
	refused(t, badConfig, []string{"tokenize", "--chat", "--model", bundled}, "no chat template", "--chat-template")
	refused(t, badUsage, []string{"tokenize", "--chat", "--decode", "--model", bundled}, "--chat", "--decode")
}

// TestTokenizeChat: variables, time and errors of dsbatch tokenize --chat.
func TestTokenizeChat(t *testing.T) {
	model := chatModel(t, "{{ strftime_now('%H:%M') }} {{ messages[0].content }} {{ x | tojson }} {{ tools is none }}{{ raise_exception('no more') if stop }}")
	for line, want := range map[string]string{
		`{"messages": [{"role": "user", "content": "é"}], "now": "2025-07-06T14:05:09", "x": {"b": 1.50, "a": 12345678901234567890}}`: `{"text":"14:05 é {\"b\": 1.5, \"a\": 12345678901234567890} True"}`,
		`{"messages": [{"content": "a"}], "now": "2025-07-06T14:05:09", "x": 1, "stop": true}`:                                        `{"error":"no more"}`,
		`{"messages": [{"content": "a"}], "now": "noon"}`:                                                                             `{"error":"now: \"noon\" is no time; write it as \"2025-07-06T14:05:09\""}`,
		`{"messages": []}`: `{"error":"a chat needs at least one message"}`,
		`{"messages": [{"content": "a"}], "x": 1, "x": 2}`: `{"error":"the line has the key \"x\" twice"}`,
	} {
		if e := feed(t, line, "tokenize", "--chat", "--model", model).want(t, done); strings.TrimSpace(e.stdout) != want {
			t.Errorf("%s\n got %s\nwant %s", line, e.stdout, want)
		}
	}
}
