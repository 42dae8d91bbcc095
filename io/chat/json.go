package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// deepest is how far lists and objects may lie in each other in what a template is given.
const deepest = 200

// parseJSON reads what a template is given: objects keep their order, 1 is an integer and 1.0 a float. The error says what
// is wrong, behind the name of what is read.
func parseJSON(b []byte) (value, error) {
	d := &jsonReader{b: b}
	d.space()
	v, err := d.value(0)
	if err == nil {
		if d.space(); d.at < len(d.b) {
			err = errors.New("has something behind its end")
		}
	}
	return v, err
}

type jsonReader struct {
	b  []byte
	at int
}

var errJSON = errors.New("is no JSON")

func (d *jsonReader) space() {
	for d.at < len(d.b) && (d.b[d.at] == ' ' || d.b[d.at] == '\n' || d.b[d.at] == '\t' || d.b[d.at] == '\r') {
		d.at++
	}
}

// skip passes a byte, where it is next, and white space behind it.
func (d *jsonReader) skip(c byte) bool {
	if d.at < len(d.b) && d.b[d.at] == c {
		d.at++
		d.space()
		return true
	}
	return false
}

func (d *jsonReader) value(deep int) (value, error) {
	if deep > deepest {
		return nil, fmt.Errorf("is nested deeper than %d", deepest)
	}
	if d.at >= len(d.b) {
		return nil, errJSON
	}
	switch d.b[d.at] {
	case '{':
		return d.object(deep)
	case '[':
		d.skip('[')
		l := &list{}
		for first := true; !d.skip(']'); first = false {
			if !first && !d.skip(',') {
				return nil, errJSON
			}
			v, err := d.value(deep + 1)
			if err != nil {
				return nil, err
			}
			l.items = append(l.items, v)
			d.space()
		}
		return l, nil
	case '"':
		return d.text()
	}
	for word, v := range map[string]value{"null": none, "true": true, "false": false} {
		if end := d.at + len(word); end <= len(d.b) && string(d.b[d.at:end]) == word {
			d.at = end
			return v, nil
		}
	}
	return d.number()
}

func (d *jsonReader) object(deep int) (value, error) {
	d.skip('{')
	o := &dict{}
	for first := true; !d.skip('}'); first = false {
		if !first && !d.skip(',') {
			return nil, errJSON
		}
		key, err := d.text()
		if err != nil {
			return nil, err
		}
		if d.space(); !d.skip(':') {
			return nil, errJSON
		}
		v, err := d.value(deep + 1)
		if err != nil {
			return nil, err
		}
		o.set(key, v)
		d.space()
	}
	return o, nil
}

func (d *jsonReader) text() (string, error) {
	if d.at >= len(d.b) || d.b[d.at] != '"' {
		return "", errJSON
	}
	plain := true
	for i := d.at + 1; i < len(d.b); i++ {
		switch c := d.b[i]; {
		case c == '\\':
			plain = false
			i++
		case c == '"':
			raw := d.b[d.at : i+1]
			d.at = i + 1
			if plain {
				if !utf8.Valid(raw) {
					return "", errors.New("is not valid UTF-8; convert it")
				}
				return string(raw[1 : len(raw)-1]), nil
			}
			var s string
			if json.Unmarshal(raw, &s) != nil {
				return "", errJSON
			}
			return s, nil
		case c < 0x20:
			return "", errJSON
		}
	}
	return "", errJSON
}

func (d *jsonReader) number() (value, error) {
	from := d.at
	isInt := true
	for ; d.at < len(d.b); d.at++ {
		c := d.b[d.at]
		if c == '.' || c == 'e' || c == 'E' {
			isInt = false
		} else if (c < '0' || c > '9') && c != '-' && c != '+' {
			break
		}
	}
	raw := d.b[from:d.at]
	if !json.Valid(raw) {
		return nil, errJSON
	}
	if isInt {
		n, ok := parseInt(string(raw), 10)
		if !ok {
			return nil, fmt.Errorf("has an integer of more than %d digits", maxDigits)
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return nil, errJSON
	}
	return f, nil
}
