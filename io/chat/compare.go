package chat

import (
	"math"
	"math/big"
	"strings"
)

func (r *render) compare(op string, left, right value) bool {
	switch op {
	case "==":
		return r.equal(left, right, 0)
	case "!=":
		return !r.equal(left, right, 0)
	case "in":
		return r.contains(right, left)
	case "not in":
		return !r.contains(right, left)
	}
	c, ordered := r.order(op, left, right, 0)
	if !ordered { // not a number
		return false
	}
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// equal is Python's ==.
func (r *render) equal(a, b value, deep int) bool {
	deepEnough(deep)
	r.step(1)
	if s, ok := asText(a); ok {
		t, ok := asText(b)
		r.look(min(len(s), len(t)))
		return ok && s == t
	}
	if x, f, kind := number(a); kind != 0 {
		y, g, other := number(b)
		return other != 0 && numbersOrder(x, f, kind, y, g, other) == 0
	}
	switch a := a.(type) {
	case *list:
		b, ok := b.(*list)
		return ok && a.tuple == b.tuple && r.equalAt(a.items, b.items, deep+1)
	case *dict:
		b, ok := b.(*dict)
		return ok && r.equalDicts(a, b, deep+1)
	case *undefined:
		_, ok := b.(*undefined)
		return ok
	case *span:
		b, ok := b.(*span)
		return ok && a.length() == b.length() && (a.length() == 0 || a.start == b.start && (a.length() == 1 || a.step == b.step))
	case *view:
		b, ok := b.(*view)
		if !ok || a.kind == "dict_values" || b.kind == "dict_values" {
			return ok && a == b
		}
		one, two := a.list(), b.list()
		if len(one) != len(two) {
			return false
		}
		for _, v := range one {
			if !r.contains(newList(two...), v) {
				return false
			}
		}
		return true
	}
	return a == b // the same thing
}

func (r *render) equalItems(a, b []value) bool { return r.equalAt(a, b, 0) }

func (r *render) equalAt(a, b []value, deep int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !r.equal(a[i], b[i], deep) {
			return false
		}
	}
	return true
}

func (r *render) equalDicts(a, b *dict, deep int) bool {
	if a.len() != b.len() {
		return false
	}
	for i, k := range a.keys {
		if v := b.get(k); v == nil || !r.equal(a.values[i], v, deep) {
			return false
		}
	}
	return true
}

// numbersOrder compares numbers of both kinds without rounding: below, at or above 0, and 2 where one is not a number.
func numbersOrder(x *big.Int, f float64, kind byte, y *big.Int, g float64, other byte) int {
	switch {
	case kind == 'i' && other == 'i':
		return x.Cmp(y)
	case kind == 'f' && math.IsNaN(f) || other == 'f' && math.IsNaN(g):
		return 2
	case kind == 'f' && other == 'f':
		switch {
		case f < g:
			return -1
		case f > g:
			return 1
		}
		return 0
	case kind == 'i':
		return -numbersOrder(y, g, other, x, f, kind)
	case math.IsInf(f, 0):
		return int(math.Copysign(1, f))
	}
	return new(big.Float).SetFloat64(f).Cmp(new(big.Float).SetInt(y))
}

// order compares for < and its like; ordered is false where a number is none.
func (r *render) order(op string, a, b value, deep int) (c int, ordered bool) {
	deepEnough(deep)
	r.step(1)
	for _, v := range []value{a, b} {
		if u, ok := v.(*undefined); ok {
			panic(u.fault())
		}
	}
	if s, ok := asText(a); ok {
		if t, ok := asText(b); ok {
			r.look(min(len(s), len(t)))
			return strings.Compare(s, t), true // by code points, which is by bytes
		}
	}
	if x, f, kind := number(a); kind != 0 {
		if y, g, other := number(b); other != 0 {
			c := numbersOrder(x, f, kind, y, g, other)
			return c, c != 2
		}
	}
	if x, ok := a.(*list); ok {
		if y, ok := b.(*list); ok && x.tuple == y.tuple {
			for i := range min(len(x.items), len(y.items)) {
				if !r.equal(x.items[i], y.items[i], deep+1) {
					return r.order(op, x.items[i], y.items[i], deep+1)
				}
			}
			return len(x.items) - len(y.items), true
		}
	}
	typeError("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
	return 0, false
}

// contains is Python's x in of.
func (r *render) contains(of, x value) bool {
	switch v := of.(type) {
	case string, markup:
		s, _ := asText(v)
		part, ok := asText(x)
		if !ok {
			typeError("'in <string>' requires string as left operand, not %s", typeName(x))
		}
		r.look(len(s))
		return strings.Contains(s, part)
	case *dict:
		return r.hasKey(v, x)
	case *view:
		if v.kind == "dict_keys" {
			return r.hasKey(v.of, x)
		}
	case *span:
		n, f, kind := number(x)
		if kind == 'f' && f == math.Trunc(f) && math.Abs(f) < 1<<62 {
			n, kind = big.NewInt(int64(f)), 'i'
		}
		if kind != 'i' || !n.IsInt64() || v.length() == 0 {
			return false
		}
		at := n.Int64() - v.start
		return at%v.step == 0 && at/v.step >= 0 && at/v.step < v.length()
	case noneType, bool, int64, *big.Int, float64, *namespace, *function, *macro, *cycler:
		typeError("argument of type '%s' is not iterable", typeName(of))
	}
	for _, item := range r.items(of) {
		if r.equal(item, x, 0) {
			return true
		}
	}
	return false
}

func (r *render) hasKey(d *dict, key value) bool {
	if _, ok := hash(key); !ok {
		typeError("unhashable type: '%s'", typeName(key))
	}
	return d.get(key) != nil
}
