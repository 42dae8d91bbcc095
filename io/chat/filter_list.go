package chat

import (
	"sort"
	"strconv"
	"strings"
)

// getter finds an attribute like "function.name" or 0 in elements; nil or none are the elements themselves. Other, where
// it is not nil, stands for what is not there.
func (r *render) getter(attribute, other value) func(value) value {
	if attribute == nil || attribute == none {
		return func(v value) value { return v }
	}
	var path []value
	if s, ok := asText(attribute); ok {
		for _, part := range strings.Split(s, ".") {
			if n, err := strconv.ParseInt(part, 10, 64); err == nil && n >= 0 {
				path = append(path, n)
			} else {
				path = append(path, part)
			}
		}
	} else {
		path = []value{attribute}
	}
	return func(v value) value {
		for _, key := range path {
			v = r.item(v, key)
			if _, missing := v.(*undefined); missing && other != nil {
				v = other
			}
		}
		return v
	}
}

// folded are getters of sort keys: without case unless it counts.
func (r *render) folded(get func(value) value, caseCounts bool) func(value) value {
	if caseCounts {
		return get
	}
	return func(v value) value {
		v = get(v)
		if s, ok := asText(v); ok {
			r.make(len(s))
			return lower(s)
		}
		return v
	}
}

func isTrue(v value) bool { return v != nil && truth(v) }

func first(r *render, v value, a *arguments) value {
	a.bind("first")
	if s, ok := v.(*stream); ok {
		if item := s.next(); item != nil {
			return item
		}
	} else if items := r.items(v); len(items) > 0 {
		return items[0]
	}
	return &undefined{hint: "No first item, sequence was empty."}
}

func last(r *render, v value, a *arguments) value {
	a.bind("last")
	if _, ok := v.(*stream); ok {
		typeError("'generator' object is not reversible")
	}
	if items := r.items(v); len(items) > 0 {
		return items[len(items)-1]
	}
	return &undefined{hint: "No last item, sequence was empty."}
}

func items(r *render, v value, a *arguments) value {
	a.bind("items")
	return &stream{begin: func() []value {
		switch v := v.(type) {
		case *undefined:
			return nil
		case *dict:
			r.hold(v.len())
			return (&view{v, "dict_items"}).list()
		}
		typeError("Can only get item pairs from a mapping.")
		return nil
	}}
}

func reverse(r *render, v value, a *arguments) value {
	a.bind("reverse")
	if s, ok := asText(v); ok {
		return r.slice(s, [3]value{none, none, int64(-1)})
	}
	all := r.items(v)
	r.hold(len(all))
	out := make([]value, len(all))
	for i, item := range all {
		out[len(all)-1-i] = item
	}
	if _, ok := v.(*stream); ok {
		return newList(out...)
	}
	return &stream{items: out}
}

// ordered sorts elements by their keys, equal ones as they were.
func (r *render) ordered(all []value, key func(value) value, backwards bool) []value {
	r.hold(2 * len(all))
	keys, order := make([]value, len(all)), make([]int, len(all))
	for i, v := range all {
		keys[i], order[i] = key(v), i
	}
	sort.SliceStable(order, func(i, j int) bool {
		x, y := keys[order[i]], keys[order[j]]
		if backwards {
			x, y = y, x
		}
		c, ok := r.order("<", x, y, 0)
		return ok && c < 0
	})
	out := make([]value, len(all))
	for i, at := range order {
		out[i] = all[at]
	}
	return out
}

// sortTexts orders keys of a dict that are texts.
func sortTexts(order []int, d *dict) {
	sort.SliceStable(order, func(i, j int) bool {
		a, _ := asText(d.keys[order[i]])
		b, _ := asText(d.keys[order[j]])
		return a < b
	})
}

func sorted(r *render, v value, a *arguments) value {
	b := a.bind("sort", "reverse=", "case_sensitive=", "attribute=")
	key := r.folded(r.getter(b[2], nil), isTrue(b[1]))
	if s, ok := asText(b[2]); ok && strings.Contains(s, ",") {
		var keys []func(value) value
		for _, part := range strings.Split(s, ",") {
			keys = append(keys, r.folded(r.getter(part, nil), isTrue(b[1])))
		}
		key = func(v value) value {
			out := make([]value, len(keys))
			for i, k := range keys {
				out[i] = k(v)
			}
			return newList(out...)
		}
	}
	return newList(r.ordered(r.items(v), key, isTrue(b[0]))...)
}

func dictSort(r *render, v value, a *arguments) value {
	b := a.bind("dictsort", "case_sensitive=", "by=", "reverse=")
	at := 0
	if by := b[1]; by != nil {
		if s, _ := asText(by); s == "value" {
			at = 1
		} else if s != "key" {
			fail("FilterArgumentError", `You can only sort by either "key" or "value"`)
		}
	}
	d, ok := v.(*dict)
	if !ok {
		if u, missing := v.(*undefined); missing {
			panic(u.fault())
		}
		typeError("dictsort takes a dict, not %s", typeName(v))
	}
	r.hold(3 * d.len())
	key := r.folded(func(v value) value { return v.(*list).items[at] }, isTrue(b[0]))
	return newList(r.ordered((&view{d, "dict_items"}).list(), key, isTrue(b[2]))...)
}

func unique(r *render, v value, a *arguments) value {
	b := a.bind("unique", "case_sensitive=", "attribute=")
	key := r.folded(r.getter(b[1], nil), isTrue(b[0]))
	seen := map[any]bool{}
	return &stream{begin: func() []value { return r.items(v) }, each: func(item value) (value, bool) {
		r.hold(4)
		k := key(item)
		h, ok := hash(k)
		if !ok {
			typeError("unhashable type: '%s'", typeName(k))
		}
		again := seen[h]
		seen[h] = true
		return item, !again
	}}
}

func extreme(r *render, name string, v value, a *arguments) value {
	b := a.bind(name, "case_sensitive=", "attribute=")
	key := r.folded(r.getter(b[1], nil), isTrue(b[0]))
	var best, bestKey value
	for _, item := range r.items(v) {
		k := key(item)
		if best == nil {
			best, bestKey = item, k
			continue
		}
		x, y := k, bestKey
		if name == "max" {
			x, y = y, x
		}
		if c, ok := r.order("<", x, y, 0); ok && c < 0 {
			best, bestKey = item, k
		}
	}
	if best == nil {
		return &undefined{hint: "No aggregated item, sequence was empty."}
	}
	return best
}

func sum(r *render, v value, a *arguments) value {
	b := a.bind("sum", "attribute=", "start=")
	total := value(int64(0))
	if b[1] != nil {
		total = b[1]
	}
	if _, ok := asText(total); ok {
		typeError("sum() can't sum strings [use ''.join(seq) instead]")
	}
	get := r.getter(b[0], nil)
	for _, item := range r.items(v) {
		total = r.binary("+", total, get(item))
	}
	return total
}

func count(name string, v value) int {
	n, ok := asInt(v)
	if !ok {
		typeError("%s takes an integer, not %s", name, typeName(v))
	}
	return int(min(max(n, -maxMade), maxMade))
}

func batch(r *render, v value, a *arguments) value {
	b := a.bind("batch", "linecount", "fill_with=")
	return &stream{begin: func() []value { return r.batches(v, count("batch", b[0]), b[1]) }}
}

func (r *render) batches(v value, n int, fill value) []value {
	var out, line []value
	for _, item := range r.items(v) {
		r.hold(1)
		if len(line) == n {
			out, line = append(out, newList(line...)), nil
		}
		line = append(line, item)
	}
	if len(line) > 0 {
		if fill != nil && fill != none && len(line) < n {
			r.hold(n)
			for len(line) < n {
				line = append(line, fill)
			}
		}
		out = append(out, newList(line...))
	}
	return out
}

func inSlices(r *render, v value, a *arguments) value {
	b := a.bind("slice", "slices", "fill_with=")
	return &stream{begin: func() []value { return r.slices(v, count("slice", b[0]), b[1]) }}
}

func (r *render) slices(v value, n int, fill value) []value {
	all := r.items(v)
	if n == 0 {
		fail("ZeroDivisionError", "integer division or modulo by zero")
	}
	n = max(n, 0)
	r.hold(len(all) + 2*n)
	out := make([]value, 0, n)
	at := 0
	for i := range n {
		size := len(all) / n
		if i < len(all)%n {
			size++
		}
		part := append([]value{}, all[at:at+size]...)
		at += size
		if fill != nil && fill != none && i >= len(all)%n {
			part = append(part, fill)
		}
		out = append(out, newList(part...))
	}
	return out
}

// groupBy gives pairs of a value and the elements that have it, in the order of the values.
func groupBy(r *render, v value, a *arguments) value {
	b := a.bind("groupby", "attribute", "default=", "case_sensitive=")
	if b[1] == none {
		b[1] = nil
	}
	get := r.getter(b[0], b[1])
	key := r.folded(get, isTrue(b[2]))
	var groups []value
	var now []value
	var nowKey value
	end := func() {
		if len(now) > 0 {
			name := nowKey
			if !isTrue(b[2]) {
				name = get(now[0]) // as the first of them writes it
			}
			groups = append(groups, &list{items: []value{name, newList(now...)}, tuple: true, names: []string{"grouper", "list"}})
		}
	}
	for _, item := range r.ordered(r.items(v), key, false) {
		k := key(item)
		if len(now) == 0 || !r.equal(k, nowKey, 0) {
			end()
			now, nowKey = nil, k
		}
		now = append(now, item)
	}
	end()
	return newList(groups...)
}

// mapped is map(attribute=…, default=…) or map(filter, its arguments…). What is false has no elements, none among it.
func mapped(r *render, v value, a *arguments) value {
	s := &stream{}
	s.begin = func() []value {
		if !truth(v) {
			return nil
		}
		each := r.mapping(a)
		s.each = func(v value) (value, bool) { return each(v), true }
		return r.items(v)
	}
	return s
}

// mapping is what map does with an element.
func (r *render) mapping(a *arguments) func(value) value {
	if len(a.args) == 0 && index(a.names, "attribute") >= 0 {
		b := a.bind("map", "*", "attribute", "default=")
		return r.getter(b[1], b[2])
	}
	if len(a.args) == 0 {
		fail("FilterArgumentError", "map requires a filter argument")
	}
	name, _ := asText(a.args[0])
	do := filterNamed(name)
	if do == nil {
		panic(noFilter(name))
	}
	rest := &arguments{args: a.args[1:], names: a.names, kwargs: a.kwargs}
	return func(v value) value { return do(r, v, rest) }
}

// selected is select, reject, selectattr or rejectattr. What is false has no elements, none among it.
func selected(r *render, name string, v value, a *arguments) value {
	s := &stream{}
	s.begin = func() []value {
		if !truth(v) {
			return nil
		}
		passes, wanted := r.selection(name, a), strings.HasPrefix(name, "select")
		s.each = func(v value) (value, bool) {
			r.step(1)
			return v, passes(v) == wanted
		}
		return r.items(v)
	}
	return s
}

// selection is what select and its like ask of an element.
func (r *render) selection(name string, a *arguments) func(value) bool {
	args, get := a.args, r.getter(nil, nil)
	if strings.HasSuffix(name, "attr") {
		if len(args) == 0 {
			fail("FilterArgumentError", "Missing parameter for attribute name")
		}
		get, args = r.getter(args[0], nil), args[1:]
	}
	if len(args) == 0 {
		return func(v value) bool { return truth(get(v)) }
	}
	word, _ := asText(args[0])
	is := testNamed(word)
	if is == nil {
		panic(noTest(word))
	}
	rest := &arguments{args: args[1:], names: a.names, kwargs: a.kwargs}
	return func(v value) bool { return is(r, get(v), rest) }
}
