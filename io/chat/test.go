package chat

import (
	"math/big"
	"strings"
	"unicode"
)

// test is what stands behind "is".
type test func(r *render, v value, a *arguments) bool

// testNamed is nil where there is none of that name.
func testNamed(name string) test {
	switch name {
	case "defined":
		return func(_ *render, v value, _ *arguments) bool { _, ok := v.(*undefined); return !ok }
	case "undefined":
		return func(_ *render, v value, _ *arguments) bool { _, ok := v.(*undefined); return ok }
	case "none":
		return func(_ *render, v value, _ *arguments) bool { return v == none }
	case "boolean":
		return func(_ *render, v value, _ *arguments) bool { _, ok := v.(bool); return ok }
	case "true":
		return func(_ *render, v value, _ *arguments) bool { return v == true }
	case "false":
		return func(_ *render, v value, _ *arguments) bool { return v == false }
	case "integer":
		return func(_ *render, v value, _ *arguments) bool {
			switch v.(type) {
			case int64, *big.Int:
				return true
			}
			return false
		}
	case "float":
		return func(_ *render, v value, _ *arguments) bool { _, ok := v.(float64); return ok }
	case "number":
		return func(_ *render, v value, _ *arguments) bool { _, _, kind := number(v); return kind != 0 }
	case "string":
		return func(_ *render, v value, _ *arguments) bool { _, ok := asText(v); return ok }
	case "mapping":
		return func(_ *render, v value, _ *arguments) bool { _, ok := v.(*dict); return ok }
	case "sequence":
		return isSequence
	case "iterable":
		return isIterable
	case "callable":
		return isCallable
	case "escaped":
		return func(_ *render, v value, _ *arguments) bool { _, ok := v.(markup); return ok }
	case "lower":
		return func(r *render, v value, _ *arguments) bool { return isCased(r.str(v), unicode.IsLower) }
	case "upper":
		return func(r *render, v value, _ *arguments) bool { return isCased(r.str(v), unicode.IsUpper) }
	case "odd":
		return func(r *render, v value, _ *arguments) bool { return r.equal(r.binary("%", v, int64(2)), int64(1), 0) }
	case "even":
		return func(r *render, v value, _ *arguments) bool { return r.equal(r.binary("%", v, int64(2)), int64(0), 0) }
	case "divisibleby":
		return func(r *render, v value, a *arguments) bool {
			return r.equal(r.binary("%", v, a.bind(name, "num")[0]), int64(0), 0)
		}
	case "sameas":
		return func(r *render, v value, a *arguments) bool { return same(r, v, a.bind(name, "other")[0]) }
	case "filter":
		return func(_ *render, v value, _ *arguments) bool { s, ok := asText(v); return ok && filterNamed(s) != nil }
	case "test":
		return func(_ *render, v value, _ *arguments) bool { s, ok := asText(v); return ok && testNamed(s) != nil }
	}
	op := map[string]string{
		"in": "in", "==": "==", "eq": "==", "equalto": "==", "!=": "!=", "ne": "!=", ">": ">", "gt": ">", "greaterthan": ">",
		">=": ">=", "ge": ">=", "<": "<", "lt": "<", "lessthan": "<", "<=": "<=", "le": "<=",
	}[name]
	if op == "" {
		return nil
	}
	return func(r *render, v value, a *arguments) bool { return r.compare(op, v, a.bind(name, "other")[0]) }
}

func isSequence(_ *render, v value, _ *arguments) bool {
	switch v.(type) {
	case string, markup, *list, *dict, *span, *undefined:
		return true
	}
	return false
}

func isIterable(_ *render, v value, _ *arguments) bool {
	switch v.(type) {
	case string, markup, *list, *dict, *view, *span, *stream, *loop, *undefined:
		return true
	}
	return false
}

func isCallable(_ *render, v value, _ *arguments) bool {
	switch v.(type) {
	case *function, *macro, *loop, *undefined:
		return true
	}
	return false
}

// isCased: there are letters with a case, and all have this one.
func isCased(s string, is func(rune) bool) bool {
	found := false
	for _, c := range s {
		if unicode.IsUpper(c) || unicode.IsLower(c) || unicode.IsTitle(c) {
			if !is(c) {
				return false
			}
			found = true
		}
	}
	return found
}

// same is Python's "is", as far as a template can rely on it: small values are one thing, lists are each their own.
func same(r *render, a, b value) bool {
	switch a.(type) {
	case string, markup, int64, bool, float64, noneType, *big.Int:
		return typeName(a) == typeName(b) && r.equal(a, b, 0)
	}
	return a == b
}

// all tells whether a text is not empty and made of such characters.
func all(s string, is func(rune) bool) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool { return !is(c) }) < 0
}
