package chat

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrMissing is Load's error for a folder without a chat template.
var ErrMissing = errors.New("no chat template")

// Templates are those of a model folder, and the tokens that they may name.
type Templates struct {
	names  []string // default first, the others by name
	byName map[string]*Template
	tokens *dict
}

// Load reads the chat template of a model folder: chat_template.jinja (and additional_chat_templates/*.jinja beside it),
// else chat_template of tokenizer_config.json, which may be a list of named ones, else that of chat_template.json. File
// names another one, which then is the only one; "" for the folder's own. Special tokens are those of tokenizer_config.json
// and special_tokens_map.json. Errors name the file; without a template the error wraps ErrMissing.
func Load(dir, file string) (*Templates, error) {
	t := &Templates{byName: map[string]*Template{}, tokens: &dict{}}
	config := filepath.Join(dir, "tokenizer_config.json")
	fields, err := readObject(config)
	if err != nil {
		return nil, err
	}
	if err := t.readTokens(dir, fields); err != nil {
		return nil, err
	}
	if file != "" {
		return t, t.addFile("default", file)
	}
	if err := t.addFolder(dir); err != nil {
		return nil, err
	}
	if len(t.names) == 0 {
		if err := t.addField(config, fields.text("chat_template")); err != nil {
			return nil, err
		}
	}
	if len(t.names) == 0 {
		path := filepath.Join(dir, "chat_template.json")
		fields, err := readObject(path)
		if err != nil {
			return nil, err
		}
		if err := t.addField(path, fields.text("chat_template")); err != nil {
			return nil, err
		}
	}
	if len(t.names) == 0 {
		return nil, fmt.Errorf("%s: %w: it has no chat_template.jinja, and tokenizer_config.json names no chat_template", dir, ErrMissing)
	}
	slices.SortStableFunc(t.names, func(a, b string) int {
		if (a == "default") != (b == "default") {
			return map[bool]int{true: -1, false: 1}[a == "default"]
		}
		return strings.Compare(a, b)
	})
	return t, nil
}

// addFolder reads the templates that are files of their own.
func (t *Templates) addFolder(dir string) error {
	err := t.addFile("default", filepath.Join(dir, "chat_template.jinja"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	more, err := filepath.Glob(filepath.Join(dir, "additional_chat_templates", "*.jinja"))
	if err != nil {
		return err
	}
	for _, path := range more {
		if err := t.addFile(strings.TrimSuffix(filepath.Base(path), ".jinja"), path); err != nil {
			return err
		}
	}
	return nil
}

func (t *Templates) addFile(name, path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w; name a file that is there", err)
	}
	return t.add(name, path, string(raw))
}

func (t *Templates) add(name, path, source string) error {
	if !utf8.ValidString(source) {
		return fmt.Errorf("%s: the chat template is not valid UTF-8; convert it", path)
	}
	parsed, err := Parse(source)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if t.byName[name] == nil {
		t.names = append(t.names, name)
	}
	t.byName[name] = parsed
	return nil
}

// addField reads chat_template as it stands in a JSON file: a text, or a list of {"name", "template"}.
func (t *Templates) addField(path string, field value) error {
	switch field := field.(type) {
	case nil, noneType:
		return nil
	case string:
		return t.add("default", path, field)
	case *list:
		for i, item := range field.items {
			one, _ := item.(*dict)
			if one == nil {
				return fmt.Errorf("%s: chat_template[%d] is no object with a name and a template", path, i)
			}
			name, ok := one.text("name").(string)
			source, also := one.text("template").(string)
			if !ok || !also {
				return fmt.Errorf("%s: chat_template[%d] is no object with a name and a template", path, i)
			}
			if err := t.add(name, path, source); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	case *dict:
		for i, name := range field.keys {
			source, ok := field.values[i].(string)
			if !ok {
				return fmt.Errorf("%s: chat_template.%s is no text", path, name)
			}
			if err := t.add(name.(string), path, source); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%s: chat_template is neither a text nor a list of named ones", path)
}

// tokenNames are the tokens that every template may name; a folder gives some of them.
var tokenNames = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// readTokens takes the special tokens of the two files; what both name, the first decides.
func (t *Templates) readTokens(dir string, config *dict) error {
	older, err := readObject(filepath.Join(dir, "special_tokens_map.json"))
	if err != nil {
		return err
	}
	for _, fields := range []*dict{config, older} {
		for _, name := range tokenNames {
			if s, ok := tokenText(fields.text(name)); ok && t.tokens.text(name) == nil {
				t.tokens.set(name, s)
			}
		}
		if more, ok := fields.text("extra_special_tokens").(*dict); ok { // a model's own, by name
			for i, name := range more.keys {
				if s, ok := tokenText(more.values[i]); ok && t.tokens.get(name) == nil {
					t.tokens.set(name, s)
				}
			}
		}
	}
	return nil
}

// tokenText is a token given as a text, or as an object with its flags.
func tokenText(v value) (string, bool) {
	if d, ok := v.(*dict); ok {
		v = d.text("content")
	}
	s, ok := v.(string)
	return s, ok
}

// readObject reads a JSON file that may be missing.
func readObject(path string) (*dict, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &dict{}, nil
	} else if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	v, err := parseJSON(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")))
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	d, ok := v.(*dict)
	if !ok {
		return nil, fmt.Errorf("%s is no JSON object", path)
	}
	return d, nil
}

// Render is the text of a chat. Where there are several templates, one with tools takes that named tool_use, and any other
// the one named default. An error of the template is an *Error.
func (t *Templates) Render(c *Chat) (string, error) {
	name := "default"
	if c.Tools != nil && string(c.Tools) != "null" && t.byName["tool_use"] != nil {
		name = "tool_use"
	}
	one := t.byName[name]
	if one == nil {
		return "", fmt.Errorf("the model has chat templates named %s and none named default; give one with --chat-template", strings.Join(t.names, ", "))
	}
	return one.render(c, t.tokens)
}

// RenderWith is the text of c with the fields of a JSON object over it, named as apply_chat_template of transformers names
// them: messages, tools, documents, add_generation_prompt and continue_final_message; all else are variables.
func (t *Templates) RenderWith(fields []Variable, c Chat) (string, error) {
	begins := false // add_generation_prompt is asked for
	for _, f := range fields {
		var err error
		switch f.Name {
		case "messages":
			if json.Unmarshal(f.Value, &c.Messages) != nil {
				err = errors.New("is no list of messages")
			}
		case "tools":
			c.Tools = f.Value
		case "documents":
			c.Documents = f.Value
		case "add_generation_prompt":
			c.AddGenerationPrompt, err = readBool(f.Value)
			begins = c.AddGenerationPrompt
		case "continue_final_message":
			c.ContinueLast, err = readBool(f.Value)
		default:
			c.Variables = append(c.Variables, f)
		}
		if err != nil {
			return "", fmt.Errorf("%s %w", f.Name, err)
		}
	}
	if begins && c.ContinueLast {
		return "", errors.New("add_generation_prompt begins an answer and continue_final_message goes on with one; give one of them")
	}
	c.AddGenerationPrompt = c.AddGenerationPrompt && !c.ContinueLast
	return t.Render(&c)
}

func readBool(raw json.RawMessage) (b bool, err error) {
	if json.Unmarshal(raw, &b) != nil {
		err = errors.New("is neither true nor false")
	}
	return b, err
}

// ReadsTime tells whether a template asks what time it is, so that its texts depend on that.
func (t *Templates) ReadsTime() bool {
	for _, one := range t.byName {
		if strings.Contains(one.source, "strftime_now") {
			return true
		}
	}
	return false
}

// Digest tells templates and tokens apart that may give different texts.
func (t *Templates) Digest() [32]byte {
	h := sha256.New()
	add := func(parts ...string) {
		for _, s := range parts {
			fmt.Fprintf(h, "%d:%s", len(s), s)
		}
	}
	for _, name := range t.names {
		add(name, t.byName[name].source)
	}
	for i, k := range t.tokens.keys {
		add(k.(string), t.tokens.values[i].(string))
	}
	return [32]byte(h.Sum(nil))
}
