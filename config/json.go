package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
)

type jsonTree struct {
	*json.Decoder
	path    string
	content []byte
}

func parseJSON(path string, content []byte) (node, error) {
	t := jsonTree{json.NewDecoder(bytes.NewReader(content)), path, content}
	t.UseNumber()
	top, err := t.value()
	if err != nil {
		return node{}, err
	}
	if _, err := t.Token(); !errors.Is(err, io.EOF) {
		return node{}, t.at().errorAt("", "more text after the closing brace; remove it")
	}
	return top, nil
}

// at is the place of the token read last.
func (t jsonTree) at() place {
	return place{t.path, 1 + bytes.Count(t.content[:t.InputOffset()], []byte("\n"))}
}

func (t jsonTree) next() (json.Token, error) {
	tok, err := t.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, t.at().errorAt("", "is not JSON: %w", err)
	}
	return tok, nil
}

func (t jsonTree) value() (node, error) {
	tok, err := t.next()
	if err != nil {
		return node{}, err
	}
	n := node{at: t.at()}
	switch v := tok.(type) {
	case nil:
		n.kind = null
	case bool:
		n.kind, n.text = boolean, strconv.FormatBool(v)
	case json.Number:
		n.kind, n.text = number, v.String()
	case string:
		n.kind, n.text = text, v
	case json.Delim:
		if v == '[' {
			return t.list(n)
		}
		return t.table(n)
	}
	return n, nil
}

func (t jsonTree) list(n node) (node, error) {
	n.kind = list
	for t.More() {
		item, err := t.value()
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	_, err := t.next() // the closing bracket
	return n, err
}

func (t jsonTree) table(n node) (node, error) {
	n.kind = table
	for t.More() {
		tok, err := t.next()
		if err != nil {
			return node{}, err
		}
		e := entry{key: tok.(string), at: t.at()} // in a JSON object, a string or an error
		if e.value, err = t.value(); err != nil {
			return node{}, err
		}
		if err := n.add(e); err != nil {
			return node{}, err
		}
	}
	_, err := t.next()
	return n, err
}
