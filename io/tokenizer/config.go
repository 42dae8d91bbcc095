package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// config is what counts of tokenizer_config.json and special_tokens_map.json.
type config struct {
	path           string
	Class          string       `json:"tokenizer_class"`
	AddBOS         *bool        `json:"add_bos_token"`
	AddEOS         bool         `json:"add_eos_token"` // obeyed with tokenizer.model alone
	AddPrefixSpace *bool        `json:"add_prefix_space"`
	Legacy         *bool        `json:"legacy"` // of LLaMA's tokenizer: a space before each text between added tokens
	BOS            *namedToken  `json:"bos_token"`
	EOS            *namedToken  `json:"eos_token"`
	Unknown        *namedToken  `json:"unk_token"`
	Pad            *namedToken  `json:"pad_token"`
	CLS            *namedToken  `json:"cls_token"`
	SEP            *namedToken  `json:"sep_token"`
	Mask           *namedToken  `json:"mask_token"`
	Additional     []namedToken `json:"additional_special_tokens"`

	// BERT's classes obey these.
	Lower        *bool `json:"do_lower_case"`
	Chinese      *bool `json:"tokenize_chinese_chars"`
	StripAccents *bool `json:"strip_accents"`
}

// namedToken is a token given as a string, or as an object with its flags.
type namedToken addedToken

// or is the token, or one of that content where none is named.
func (n *namedToken) or(content string) namedToken {
	if n == nil {
		return namedToken{Content: content}
	}
	return *n
}

func (n *namedToken) UnmarshalJSON(raw []byte) error {
	if strings.HasPrefix(string(raw), `"`) {
		return json.Unmarshal(raw, &n.Content)
	}
	return json.Unmarshal(raw, (*addedToken)(n))
}

// readConfig reads the two files, both of which may be missing; what both name, the first decides.
func readConfig(dir string) (config, error) {
	var c, older config
	if err := readFile(filepath.Join(dir, "special_tokens_map.json"), &older); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c.path = filepath.Join(dir, "tokenizer_config.json")
	if err := readFile(c.path, &c); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	for _, both := range []struct{ to, from **namedToken }{
		{&c.BOS, &older.BOS}, {&c.EOS, &older.EOS}, {&c.Unknown, &older.Unknown}, {&c.Pad, &older.Pad},
		{&c.CLS, &older.CLS}, {&c.SEP, &older.SEP}, {&c.Mask, &older.Mask},
	} {
		if *both.to == nil {
			*both.to = *both.from
		}
	}
	if c.Additional == nil {
		c.Additional = older.Additional
	}
	return c, nil
}

func readFile(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := readJSON(raw, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// putBOS puts the BOS before every text where add_bos_token asks for it and the class is Llama's, which sets its
// post-processor from the config; DeepSeek's folders rely on it. Other classes leave tokenizer.json as it is.
func (c config) putBOS(t *Tokenizer) error {
	if c.AddBOS == nil || !*c.AddBOS || strings.TrimSuffix(c.Class, "Fast") != "LlamaTokenizer" || len(t.template.single) != 1 {
		return nil
	}
	if c.BOS == nil {
		return fmt.Errorf("%s: add_bos_token is true, but there is no bos_token", c.path)
	}
	id, ok := t.ID(c.BOS.Content)
	if !ok {
		return fmt.Errorf("%s: bos_token: %q is not in the vocabulary", c.path, c.BOS.Content)
	}
	bos := templatePart{-1, []int32{id}, 0}
	second := bos
	second.segment = 1
	t.template.single = append([]templatePart{bos}, t.template.single...)
	t.template.pair = []templatePart{bos, {text: 0}, second, {text: 1, segment: 1}}
	t.digest = digest(t.digest[:], []byte("bos"), []byte(c.BOS.Content))
	return nil
}

// gpt2End is the token that GPT-2's class uses for what the config does not name.
const gpt2End = "<|endoftext|>"

func (c config) bos() string { return c.BOS.or(gpt2End).Content }

// addedTokens is what a folder in GPT-2's older form adds to its vocabulary: more, and the tokens that the config names.
func (c config) addedTokens(vocab map[string]int32, more map[string]int64) []addedToken {
	var named []namedToken
	for _, token := range []*namedToken{c.BOS, c.EOS, c.Unknown, c.Pad} {
		if _, ok := vocab[gpt2End]; ok || token != nil {
			named = append(named, token.or(gpt2End))
		}
	}
	return c.listed(more, named...)
}

// listed is what a folder without tokenizer.json adds to its vocabulary: more, from added_tokens.json, and the named
// tokens and the config's additional ones, which are special.
func (c config) listed(more map[string]int64, named ...namedToken) []addedToken {
	var list []addedToken
	for content, id := range more {
		list = append(list, addedToken{ID: id, Content: content})
	}
	slices.SortFunc(list, func(a, b addedToken) int { return cmp.Compare(a.ID, b.ID) })
	for _, n := range append(named, c.Additional...) {
		token := addedToken(n)
		token.Special = true
		if i := slices.IndexFunc(list, func(x addedToken) bool { return x.Content == token.Content }); i >= 0 {
			token.ID = list[i].ID
			list[i] = token
			continue
		}
		list = append(list, token)
	}
	return list
}
