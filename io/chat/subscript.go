package chat

import (
	"math/big"
	"strings"
	"unicode/utf8"
)

// item is v[key].
func (r *render) item(v, key value) value {
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	if d, ok := v.(*dict); ok {
		if item := d.get(key); item != nil {
			return item
		}
	} else if at, ok := asInt(key); ok {
		if item := r.element(v, at); item != nil {
			return item
		}
	}
	if name, ok := asText(key); ok {
		if found := r.member(v, name); found != nil {
			return found
		}
	}
	return &undefined{name: key, of: v}
}

// element is v[at] of what has an order; nil where there is none.
func (r *render) element(v value, at int64) value {
	switch v := v.(type) {
	case string, markup:
		s, _ := asText(v)
		r.look(len(s))
		if n := int64(utf8.RuneCountInString(s)); at < 0 {
			at += n
		}
		if at < 0 || at >= int64(len(s)) {
			return nil
		}
		if isASCII(s) {
			return s[at : at+1]
		}
		for _, c := range s {
			if at == 0 {
				return string(c)
			}
			at--
		}
	case *list:
		if at < 0 {
			at += int64(len(v.items))
		}
		if at >= 0 && at < int64(len(v.items)) {
			return v.items[at]
		}
	case *span:
		if at < 0 {
			at += v.length()
		}
		if at >= 0 && at < v.length() {
			return v.start + at*v.step
		}
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// slice is v[from:to:step].
func (r *render) slice(v value, bounds [3]value) value {
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	length := 0
	var letters []rune
	ascii := false
	switch v := v.(type) {
	case string, markup:
		s, _ := asText(v)
		r.look(len(s))
		if ascii = isASCII(s); ascii {
			length = len(s)
		} else {
			r.make(4 * len(s))
			letters = []rune(s)
			length = len(letters)
		}
	case *list:
		length = len(v.items)
	case *span:
		length = int(v.length())
	default:
		typeError("'%s' object is not subscriptable", typeName(v))
	}
	from, step, n, ok := cut(bounds, length)
	if !ok {
		typeError("slice indices must be integers or None or have an __index__ method")
	}
	switch v := v.(type) {
	case *list:
		r.hold(n)
		out := &list{items: make([]value, n), tuple: v.tuple}
		for i := range out.items {
			out.items[i] = v.items[from+i*step]
		}
		return out
	case *span:
		return &span{v.start + int64(from)*v.step, v.start + int64(from+n*step)*v.step, v.step * int64(step)}
	}
	s, _ := asText(v)
	r.make(n)
	if ascii && step == 1 {
		return s[from : from+n]
	}
	var out strings.Builder
	for i := range n {
		if ascii {
			out.WriteByte(s[from+i*step])
		} else {
			out.WriteRune(letters[from+i*step])
		}
	}
	return out.String()
}

// cut settles the bounds of a slice over length elements: the first, the distance and the number of those taken.
func cut(bounds [3]value, length int) (from, step, n int, ok bool) {
	var b [3]int64
	for i, v := range bounds {
		if v == none {
			continue
		}
		x, isInt := asInt(v)
		if large, isBig := v.(*big.Int); isBig {
			x, isInt = int64(large.Sign())<<62, true
		}
		if !isInt {
			return 0, 0, 0, false
		}
		b[i] = min(max(x, -1<<62), 1<<62)
	}
	if bounds[2] == none {
		b[2] = 1
	} else if b[2] == 0 {
		fail("ValueError", "slice step cannot be zero")
	}
	size := int64(length)
	low, high := int64(0), size
	if b[2] < 0 {
		low, high = -1, size-1
	}
	for i := range 2 {
		switch {
		case bounds[i] == none && (i == 0) == (b[2] > 0):
			b[i] = low
		case bounds[i] == none:
			b[i] = high
		default:
			if b[i] < 0 {
				b[i] += size
			}
			b[i] = min(max(b[i], low), high)
		}
	}
	b[2] = min(max(b[2], -size-1), size+1)
	count := (&span{b[0], b[1], b[2]}).length()
	return int(b[0]), int(b[2]), int(count), true
}
