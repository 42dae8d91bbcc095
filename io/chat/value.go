package chat

import (
	"math/big"
	"strconv"
)

// value is what a template computes with. nil stands for a name that nothing was given to; the kinds are
//
//	noneType, bool, int64, *big.Int (beyond int64 only), float64
//	string, markup          texts, valid UTF-8; markup is one that is escaped already
//	*list, *dict, *view     as Python's; a view is the keys, values or items of a dict
//	*span                   range(…)
//	*stream                 what a lazy filter gives: iterated once
//	*undefined              what is not there
//	*namespace, *loop, *macro, *function, *cycler
type value any

type noneType struct{}

var none = noneType{}

// markup is a text that was escaped, or said to be safe; joined to other texts it escapes them.
type markup string

// list is Python's list or, with tuple, its tuple; names are those of a named tuple's fields. Nothing changes it.
type list struct {
	items []value
	tuple bool
	names []string
}

func newList(items ...value) *list  { return &list{items: items} }
func newTuple(items ...value) *list { return &list{items: items, tuple: true} }

// span is range(start, stop, step).
type span struct{ start, stop, step int64 }

func (s *span) length() int64 {
	switch {
	case s.step > 0 && s.start < s.stop:
		return (s.stop-s.start-1)/s.step + 1
	case s.step < 0 && s.start > s.stop:
		return (s.start-s.stop-1)/-s.step + 1
	}
	return 0
}

// stream is what a lazy filter gives. Nothing happens before the first element is asked for, errors among it, and what was
// taken is gone.
type stream struct {
	begin func() []value                 // what it goes through; nil once it has begun
	each  func(value) (v value, ok bool) // what becomes of one, and whether it is in; nil: all are, as they are
	items []value
	at    int
}

// next is the next element; nil at the end.
func (s *stream) next() value {
	if s.begin != nil {
		s.items, s.begin = s.begin(), nil
	}
	for s.at < len(s.items) {
		v := s.items[s.at]
		s.at++
		if s.each == nil {
			return v
		}
		if v, ok := s.each(v); ok {
			return v
		}
	}
	return nil
}

// view is d.keys(), d.values() or d.items().
type view struct {
	of   *dict
	kind string
}

func (v *view) list() []value {
	out := make([]value, v.of.len())
	for i := range out {
		switch v.kind {
		case "dict_keys":
			out[i] = v.of.keys[i]
		case "dict_values":
			out[i] = v.of.values[i]
		default:
			out[i] = newTuple(v.of.keys[i], v.of.values[i])
		}
	}
	return out
}

// undefined is the outcome of a name, attribute or element that is not there: empty when printed, an error when used.
type undefined struct {
	name value // of what is missing
	of   value // where; nil: a variable
	kind string
	hint string // the whole message, where it is no common one
}

func (u *undefined) fault() *Error {
	kind := u.kind
	if kind == "" {
		kind = "UndefinedError"
	}
	switch name, isText := u.name.(string); {
	case u.hint != "":
		return fault(kind, "%s", u.hint)
	case u.of == nil:
		return fault(kind, "'%s' is undefined", u.name)
	case !isText:
		return fault(kind, "%s has no element %s", described(u.of), briefly(u.name))
	default:
		return fault(kind, "'%s' has no attribute %s", described(u.of), quoted(name))
	}
}

// described is how the reference names a value that lacks something.
func described(v value) string {
	if v == none {
		return "None"
	}
	return typeName(v) + " object"
}

// namespace is what {% set ns.x = … %} writes to.
type namespace struct{ attrs *dict }

// function is anything built in that can be called.
type function struct {
	name string
	call func(r *render, a *arguments) value
}

// cycler gives its items in turn.
type cycler struct {
	items []value
	at    int
}

// typeName is Python's name of a value's type.
func typeName(v value) string {
	switch v := v.(type) {
	case noneType:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case markup:
		return "markupsafe.Markup"
	case *list:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *dict:
		return "dict"
	case *view:
		return v.kind
	case *span:
		return "range"
	case *stream:
		return "generator"
	case *undefined, nil:
		return "Undefined"
	case *namespace:
		return "jinja2.utils.Namespace"
	case *loop:
		return "jinja2.runtime.LoopContext"
	case *macro:
		return "jinja2.runtime.Macro"
	case *cycler:
		return "jinja2.utils.Cycler"
	}
	return "function"
}

// truth is bool(v).
func truth(v value) bool {
	switch v := v.(type) {
	case bool:
		return v
	case string:
		return v != ""
	case markup:
		return v != ""
	case int64:
		return v != 0
	case float64:
		return v != 0
	case noneType, *undefined, nil:
		return false
	case *list:
		return len(v.items) > 0
	case *dict:
		return v.len() > 0
	case *view:
		return v.of.len() > 0
	case *span:
		return v.length() > 0
	}
	return true
}

// asText is the text of a string or of markup.
func asText(v value) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case markup:
		return string(v), true
	}
	return "", false
}

// asInt is an integer that fits, bools among them as in Python.
func asInt(v value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// whole makes the smallest kind of an integer.
func whole(x *big.Int) value {
	if x.IsInt64() {
		return x.Int64()
	}
	return x
}

// parseInt reads decimal digits of any length.
func parseInt(s string, base int) (value, bool) {
	if n, err := strconv.ParseInt(s, base, 64); err == nil {
		return n, true
	}
	if len(s) > maxDigits {
		return nil, false
	}
	x, ok := new(big.Int).SetString(s, base)
	if !ok {
		return nil, false
	}
	return whole(x), true
}
