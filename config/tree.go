package config

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// node is one value of a job file, a DeepSpeed file or a Go map, with the place it was written.
type node struct {
	at    place
	kind  kind
	text  string  // a scalar as written, without quotes; booleans as true and false
	items []node  // of a list
	keys  []entry // of a table, in the order written, none twice
}

type entry struct {
	key   string
	at    place
	value node
}

type kind int

const (
	null kind = iota
	boolean
	number
	text
	list
	table
	object // a Go value that no file could hold
)

func (k kind) String() string {
	return [...]string{"nothing", "true or false", "a number", "a text", "a list", "a dictionary", "an object of a program"}[k]
}

func (n node) isScalar() bool { return n.kind == boolean || n.kind == number || n.kind == text }

// isAuto tells the string that stands for "not set" in every field of DeepSpeed's configs.
func (n node) isAuto() bool { return n.kind == text && n.text == "auto" }

// plain returns the value without its places: nil, bool, int64, float64, string, []any or map[string]any.
func (n node) plain() any {
	switch n.kind {
	case boolean:
		return n.text == "true"
	case number:
		if i, err := strconv.ParseInt(n.text, 10, 64); err == nil {
			return i
		}
		if x, err := strconv.ParseFloat(n.text, 64); err == nil {
			return x
		}
		return n.text // 0x10, 1_000: YAML's other spellings
	case text, object:
		return n.text
	case list:
		out := make([]any, len(n.items))
		for i, item := range n.items {
			out[i] = item.plain()
		}
		return out
	case table:
		out := make(map[string]any, len(n.keys))
		for _, e := range n.keys {
			out[e.key] = e.value.plain()
		}
		return out
	}
	return nil
}

// readTree reads a YAML or JSON file whose top level is a dictionary; an empty file is an empty one.
func readTree(path string) (node, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return node{}, &Error{File: path, Err: fmt.Errorf("cannot be read: %w", err)}
	}
	top, err := parseTree(path, content)
	if err != nil {
		return node{}, err
	}
	if top.kind == null {
		top.kind = table
	}
	if top.kind != table {
		return node{}, top.at.errorAt("", "holds %s; write one `key: value` a line", top.kind)
	}
	return top, nil
}

// parseTree reads JSON where the text is JSON, else YAML; both refuse a key given twice. YAML would read nearly all JSON,
// but not its tabs and not its surrogate pairs.
func parseTree(path string, content []byte) (node, error) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if first := bytes.TrimSpace(content); bytes.HasPrefix(first, []byte("{")) {
		top, err := parseJSON(path, content)
		if err == nil || strings.HasSuffix(path, ".json") || bytes.Contains(content, []byte("\t")) {
			return top, err
		}
	}
	return parseYAML(path, content)
}

// add appends a key, and refuses one that is there already.
func (n *node) add(e entry) error {
	if i := slices.IndexFunc(n.keys, func(o entry) bool { return o.key == e.key }); i >= 0 {
		return e.at.errorAt(e.key, "given twice, first in line %d; keep one of them", n.keys[i].at.line)
	}
	n.keys = append(n.keys, e)
	return nil
}
