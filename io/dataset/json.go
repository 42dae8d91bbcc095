package dataset

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonScan walks JSON text strictly (RFC 8259): encoding/json replaces bad UTF-8 and lone surrogates silently and lets the
// last of two equal keys win, which would change a prompt unseen.
type jsonScan struct {
	b    []byte
	i    int
	deep int
}

const jsonDepth = 256

func (s *jsonScan) fail(what string) error {
	return fmt.Errorf("is not valid JSON: %s at byte %d", what, s.i)
}

// peek passes white space and returns the byte at the place, 0 at the end.
func (s *jsonScan) peek() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

// end is an error unless nothing but white space follows.
func (s *jsonScan) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.fail("text after the value")
	}
	return nil
}

// value passes the value at the place.
func (s *jsonScan) value() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(func(string, int, int) error { return nil })
	case c == '[':
		return s.array(func(int, int) error { return nil })
	case c == '"':
		from, whole, err := s.plain()
		if err == nil && !whole {
			_, err = s.escaped(from)
		}
		return err
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case s.i >= len(s.b):
		return s.fail("the line ends inside a value")
	}
	for _, word := range []string{"null", "true", "false"} {
		if len(s.b)-s.i >= len(word) && string(s.b[s.i:s.i+len(word)]) == word {
			s.i += len(word)
			return nil
		}
	}
	return s.fail("no value")
}

// object passes the object at the place and shows each key with the bytes of its value.
func (s *jsonScan) object(visit func(key string, from, to int) error) error {
	return s.nested('{', '}', func() error {
		if s.peek() != '"' {
			return s.fail("no key in quotes")
		}
		key, err := s.text()
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.fail("no colon")
		}
		s.i++
		s.peek()
		from := s.i
		if err := s.value(); err != nil {
			return err
		}
		return visit(key, from, s.i)
	})
}

// array passes the array at the place and shows the bytes of each element.
func (s *jsonScan) array(visit func(from, to int) error) error {
	return s.nested('[', ']', func() error {
		s.peek()
		from := s.i
		if err := s.value(); err != nil {
			return err
		}
		return visit(from, s.i)
	})
}

func (s *jsonScan) nested(open, shut byte, one func() error) error {
	if s.peek() != open {
		return s.fail("no " + string(open))
	}
	if s.deep++; s.deep > jsonDepth {
		return s.fail("nested too deep")
	}
	defer func() { s.deep-- }()
	s.i++
	if s.peek() == shut {
		s.i++
		return nil
	}
	for {
		if err := one(); err != nil {
			return err
		}
		switch s.peek() {
		case shut:
			s.i++
			return nil
		case ',':
			s.i++
		case 0:
			return s.fail("the line ends inside a value")
		default:
			return s.fail("no comma")
		}
	}
}

// number passes a number.
func (s *jsonScan) number() error {
	digits := func() bool {
		from := s.i
		for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
			s.i++
		}
		return s.i > from
	}
	if s.b[s.i] == '-' {
		s.i++
	}
	if from := s.i; !digits() || s.b[from] == '0' && s.i > from+1 {
		return s.fail("a malformed number")
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !digits() {
			return s.fail("a malformed number")
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if !digits() {
			return s.fail("a malformed number")
		}
	}
	return nil
}

// text decodes the string at the place.
func (s *jsonScan) text() (string, error) {
	from, whole, err := s.plain()
	switch {
	case err != nil:
		return "", err
	case whole:
		return string(s.b[from : s.i-1]), nil
	}
	return s.escaped(from)
}

// plain passes the string at the place, which begins at from behind its quote: whole, or up to its first escape.
func (s *jsonScan) plain() (from int, whole bool, err error) {
	s.i++
	from, high := s.i, byte(0)
	for s.i < len(s.b) {
		c := s.b[s.i]
		if c == '"' || c == '\\' || c < 0x20 {
			break
		}
		high |= c
		s.i++
	}
	if high >= utf8.RuneSelf && !utf8.Valid(s.b[from:s.i]) {
		return from, false, errUTF8
	}
	if s.i < len(s.b) && s.b[s.i] == '"' {
		s.i++
		return from, true, nil
	}
	return from, false, nil
}

// escaped decodes on from the first escape of a string that began at from.
func (s *jsonScan) escaped(from int) (string, error) {
	var out strings.Builder
	out.Write(s.b[from:s.i])
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			text := out.String()
			if !utf8.ValidString(text) {
				return "", errUTF8
			}
			return text, nil
		case c < 0x20:
			return "", s.fail("a raw control character in a string")
		case c != '\\':
			out.WriteByte(c)
			s.i++
		default:
			r, err := s.escape()
			if err != nil {
				return "", err
			}
			out.WriteRune(r)
		}
	}
	return "", s.fail("the line ends inside a string")
}

func (s *jsonScan) escape() (rune, error) {
	if s.i+1 >= len(s.b) {
		return 0, s.fail("the line ends inside a string")
	}
	c := s.b[s.i+1]
	if k := strings.IndexByte(`"\/bfnrt`, c); k >= 0 {
		s.i += 2
		return rune("\"\\/\b\f\n\r\t"[k]), nil
	}
	if c != 'u' {
		return 0, s.fail("an unknown escape")
	}
	r, ok := s.hex(s.i + 2)
	if !ok {
		return 0, s.fail("a malformed escape")
	}
	if !utf16.IsSurrogate(r) {
		s.i += 6
		return r, nil
	}
	if s.i+7 < len(s.b) && s.b[s.i+6] == '\\' && s.b[s.i+7] == 'u' {
		if low, ok := s.hex(s.i + 8); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				s.i += 12
				return both, nil
			}
		}
	}
	return 0, s.fail("half of a surrogate pair")
}

func (s *jsonScan) hex(at int) (rune, bool) {
	if at+4 > len(s.b) {
		return 0, false
	}
	var r rune
	for _, c := range s.b[at : at+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// jsonKind tells what a value is by its first byte.
type jsonKind byte

const (
	jsonNull   jsonKind = 1 << iota // null
	jsonBool                        // true or false
	jsonInt                         // a number that is an int64, without point or exponent
	jsonFloat                       // any other number
	jsonText                        // a string
	jsonNested                      // an object or array
)

func kindOf(value []byte) jsonKind {
	switch value[0] {
	case 'n':
		return jsonNull
	case 't', 'f':
		return jsonBool
	case '"':
		return jsonText
	case '{', '[':
		return jsonNested
	}
	if _, err := strconv.ParseInt(string(value), 10, 64); err == nil {
		return jsonInt
	}
	return jsonFloat
}

// jsonWhole is an integer, also one written as 4.0 or 4e2.
func jsonWhole(value []byte) (int64, error) {
	if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
		return n, nil
	}
	x, err := jsonNumber(value)
	if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, errors.New("is not an integer of at most 64 bits")
	}
	return int64(x), nil
}

func jsonNumber(value []byte) (float64, error) {
	if k := kindOf(value); k != jsonInt && k != jsonFloat {
		return 0, errors.New("is not a number")
	}
	x, err := strconv.ParseFloat(string(value), 64)
	if err != nil {
		return 0, errors.New("is a number that does not fit")
	}
	return x, nil
}

// jsonString decodes a value that is a string.
func jsonString(value []byte) (string, error) {
	if value[0] == 'n' {
		return "", errNull
	}
	if value[0] != '"' {
		return "", errors.New("is not a text")
	}
	s := jsonScan{b: value}
	return s.text()
}
