package chat

// loop is what a loop's body sees as loop.
type loop struct {
	node    *forNode
	frame   *frame // that the loop stands in
	items   []value
	at      int
	depth   int
	changed []value // what loop.changed was given last
}

func (n *forNode) run(r *render, f *frame) signal {
	r.line = n.line
	r.each(n, n.in.eval(r, f), f, 0)
	return goOn
}

// each runs a loop over v.
func (r *render) each(n *forNode, v value, f *frame, depth int) {
	items := r.items(v)
	if n.test != nil {
		items = r.passing(n, items, f)
	}
	if len(items) == 0 {
		if n.otherwise != nil {
			r.statements(n.otherwise, r.enter(n.noItem, f))
		}
		return
	}
	l := &loop{node: n, frame: f, items: items, depth: depth}
	in := &frame{parent: f, vars: make([]value, len(n.bodyFrame.loads))}
	for i, item := range items {
		l.at = i
		r.step(1)
		r.begin(in, n.bodyFrame)
		if n.loop >= 0 {
			in.vars[n.loop] = l
		}
		if n.to.tuple == nil && n.to.attr == "" {
			in.vars[n.to.name.slot] = item
		} else {
			r.assign(n.to, item, in)
		}
		if r.statements(n.body, in) == breaks {
			return
		}
	}
}

// passing are the items that a loop's own condition lets through.
func (r *render) passing(n *forNode, items []value, f *frame) (out []value) {
	in := &frame{parent: f, vars: make([]value, len(n.testFrame.loads))}
	for _, item := range items {
		r.step(1)
		r.begin(in, n.testFrame)
		r.assign(n.testTo, item, in)
		if truth(n.test.eval(r, in)) {
			out = append(out, item)
		}
	}
	return out
}

// again is loop(items) in a recursive loop: what the loop prints for them.
func (l *loop) again(r *render, a *arguments) value {
	if !l.node.recursive {
		typeError("The loop must have the 'recursive' marker to be called recursively.")
	}
	v := a.bind("loop", "iterable")[0]
	r.budget.enter()
	defer r.budget.leave()
	return r.capture(func() { r.each(l.node, v, l.frame, l.depth+1) })
}

func (l *loop) attr(r *render, name string) value {
	n := int64(len(l.items))
	switch i := int64(l.at); name {
	case "index":
		return i + 1
	case "index0":
		return i
	case "revindex":
		return n - i
	case "revindex0":
		return n - i - 1
	case "first":
		return i == 0
	case "last":
		return i == n-1
	case "length":
		return n
	case "depth":
		return int64(l.depth + 1)
	case "depth0":
		return int64(l.depth)
	case "previtem":
		if i == 0 {
			return &undefined{hint: "there is no previous item"}
		}
		return l.items[i-1]
	case "nextitem":
		if i == n-1 {
			return &undefined{hint: "there is no next item"}
		}
		return l.items[i+1]
	case "cycle":
		return &function{"cycle", func(_ *render, a *arguments) value {
			if len(a.args) == 0 {
				typeError("no items for cycling given")
			}
			return a.args[l.at%len(a.args)]
		}}
	case "changed":
		return &function{"changed", func(r *render, a *arguments) value {
			if l.changed != nil && r.equalItems(l.changed, a.args) {
				return false
			}
			l.changed = append([]value{}, a.args...)
			return true
		}}
	}
	return nil
}

// macro is a macro, or the body of a call block.
type macro struct {
	node  *macroNode
	frame *frame // that it stands in
}

func (m *macro) invoke(r *render, a *arguments) value {
	n := m.node
	r.budget.enter()
	defer r.budget.leave()
	f := r.enter(n.frame, m.frame)
	more := &dict{}
	for i, name := range a.names {
		if !more.set(name, a.kwargs[i]) {
			typeError("keywords must be strings")
		}
	}
	taken := 0
	for i, name := range n.params {
		if i < len(a.args) {
			f.vars[n.slots[i]] = a.args[i]
		} else if v := more.text(name); v != nil {
			f.vars[n.slots[i]] = v
			taken++
		}
	}
	if n.caller >= 0 {
		f.vars[n.caller] = &undefined{name: "caller", hint: "No caller defined"}
		if v := more.text("caller"); v != nil {
			f.vars[n.caller] = v
			taken++
		}
	}
	m.extra(f, a, more, taken)
	for i, slot := range n.slots {
		if f.vars[slot] != nil {
			continue
		}
		if d := i - len(n.slots) + len(n.defaults); d >= 0 {
			f.vars[slot] = n.defaults[d].eval(r, f)
		} else {
			f.vars[slot] = &undefined{name: n.params[i], hint: "parameter '" + n.params[i] + "' was not provided"}
		}
	}
	line := r.line
	out := r.capture(func() { r.statements(n.body, f) })
	r.line = line
	return out
}

// extra is what becomes of arguments that no parameter takes.
func (m *macro) extra(f *frame, a *arguments, given *dict, taken int) {
	n := m.node
	more := &dict{}
	if given.len() > taken {
		for i, key := range given.keys {
			name := key.(string)
			if n.caller >= 0 && name == "caller" {
				continue
			}
			if at := index(n.params, name); at >= len(a.args) {
				continue
			}
			more.set(key, given.values[i])
		}
	}
	if n.kwargs >= 0 {
		f.vars[n.kwargs] = more
	} else if more.len() > 0 {
		typeError("macro %s takes no keyword argument %s", quoted(n.name), briefly(more.keys[0]))
	}
	rest := []value{}
	if len(a.args) > len(n.params) {
		rest = a.args[len(n.params):]
	}
	if n.varargs >= 0 {
		f.vars[n.varargs] = newTuple(rest...)
	} else if len(rest) > 0 {
		typeError("macro %s takes not more than %d argument(s)", quoted(n.name), len(n.params))
	}
}

// index is where a name stands, -1 where it does not.
func index(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

func (m *macro) attr(name string) value {
	n := m.node
	switch name {
	case "name":
		if n.to == nil {
			return none
		}
		return n.name
	case "arguments":
		items := make([]value, len(n.params))
		for i, p := range n.params {
			items[i] = p
		}
		return newTuple(items...)
	case "catch_kwargs":
		return n.kwargs >= 0
	case "catch_varargs":
		return n.varargs >= 0
	case "caller":
		return n.caller >= 0 || index(n.params, "caller") >= 0
	}
	return nil
}
