package chat

import (
	"time"
)

// render is one rendering.
type render struct {
	budget
	line  int // of the statement that runs
	out   []byte
	given *dict // the chat's variables
	now   time.Time
	top   *frame
	names *layout // of top
}

// frame holds the names of a loop, macro or block while it runs; nil is one that nothing was given to.
type frame struct {
	parent *frame
	vars   []value
}

func (f *frame) at(up int) *frame {
	for ; up > 0; up-- {
		f = f.parent
	}
	return f
}

// enter begins a frame.
func (r *render) enter(l *layout, parent *frame) *frame {
	f := &frame{parent: parent, vars: make([]value, len(l.loads))}
	r.begin(f, l)
	return f
}

func (r *render) begin(f *frame, l *layout) {
	for i, load := range l.loads {
		switch load.from {
		case outer:
			f.vars[i] = f.at(load.up).vars[load.slot]
		case outside:
			f.vars[i] = r.outside(l.names[i])
		default:
			f.vars[i] = nil
		}
	}
}

// outside is what a name means that no frame writes.
func (r *render) outside(name string) value {
	if r.top != nil { // a block sees what the top level has written by now
		for i, n := range r.names.names {
			if n == name && r.top.vars[i] != nil {
				return r.top.vars[i]
			}
		}
	}
	if v := r.given.text(name); v != nil {
		return v
	}
	return global(name)
}

func (r *render) statements(body []stmt, f *frame) signal {
	for _, x := range body {
		r.step(1)
		if s := x.run(r, f); s != goOn {
			return s
		}
	}
	return goOn
}

// write adds to what is printed.
func (r *render) write(s string) {
	r.make(len(s))
	r.out = append(r.out, s...)
}

// capture is what do prints.
func (r *render) capture(do func()) string {
	was := r.out
	r.out = nil
	do()
	s := string(r.out)
	r.out = was
	return s
}

func (n *outputNode) run(r *render, f *frame) signal {
	r.line = n.line
	for _, part := range n.parts {
		if c, ok := part.(constNode); ok {
			if s, ok := c.v.(string); ok {
				r.write(s)
				continue
			}
		}
		r.write(r.str(part.eval(r, f)))
	}
	return goOn
}

func (n *ifNode) run(r *render, f *frame) signal {
	r.line = n.line
	for i, test := range n.tests {
		if truth(test.eval(r, f)) {
			return r.statements(n.bodies[i], f)
		}
	}
	return r.statements(n.otherwise, f)
}

func (n *setNode) run(r *render, f *frame) signal {
	r.line = n.line
	r.assign(n.to, n.of.eval(r, f), f)
	return goOn
}

// assign gives a target its value.
func (r *render) assign(t target, v value, f *frame) {
	switch {
	case t.tuple != nil:
		items := r.items(v)
		if len(items) > len(t.tuple) {
			fail("ValueError", "too many values to unpack (expected %d)", len(t.tuple))
		} else if len(items) < len(t.tuple) {
			fail("ValueError", "not enough values to unpack (expected %d, got %d)", len(t.tuple), len(items))
		}
		for i, part := range t.tuple {
			r.assign(part, items[i], f)
		}
	case t.attr != "":
		ns, ok := t.name.eval(r, f).(*namespace)
		if !ok {
			fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object")
		}
		ns.attrs.set(t.attr, v)
	default:
		f.at(t.name.up).vars[t.name.slot] = v
	}
}

func (n *setBlockNode) run(r *render, f *frame) signal {
	r.line = n.line
	var v value
	in := r.enter(n.frame, f)
	v = r.capture(func() { r.statements(n.body, in) })
	if n.filter != nil {
		v = r.filtered(n.filter, v, in)
	}
	r.assign(n.to, v, f)
	return goOn
}

// filtered sends a text through the filters of a block.
func (r *render) filtered(e expr, v value, f *frame) value {
	n, ok := e.(*filterNode)
	if !ok {
		return e.eval(r, f)
	}
	if n.of != nil {
		v = r.filtered(n.of, v, f)
	}
	return n.apply(r, v, f)
}

func (n *filterBlockNode) run(r *render, f *frame) signal {
	r.line = n.line
	in := r.enter(n.frame, f)
	var v value = r.capture(func() { r.statements(n.body, in) })
	s, ok := asText(r.filtered(n.filter, v, in))
	if !ok {
		typeError("a filter block must give a text")
	}
	r.write(s)
	return goOn
}

func (n *withNode) run(r *render, f *frame) signal {
	r.line = n.line
	in := r.enter(n.frame, f)
	values := make([]value, len(n.values))
	for i, e := range n.values {
		values[i] = e.eval(r, f)
	}
	for i, t := range n.to {
		r.assign(t, values[i], in)
	}
	return r.statements(n.body, in)
}

func (n *scopeNode) run(r *render, f *frame) signal {
	r.line = n.line
	if n.escape != nil && truth(n.escape.eval(r, f)) {
		fail("TemplateRuntimeError", "autoescape is not supported: a chat is no web page")
	}
	if n.apart {
		f = nil
	}
	return r.statements(n.body, r.enter(n.frame, f))
}

func (n *jumpNode) run(*render, *frame) signal { return n.to }

func (n *loadNode) run(r *render, f *frame) signal {
	r.line = n.line
	n.of.eval(r, f)
	typeError("no loader for this environment specified")
	return goOn
}

func (n *macroNode) run(r *render, f *frame) signal {
	r.line = n.line
	f.at(n.to.up).vars[n.to.slot] = &macro{node: n, frame: f}
	return goOn
}

func (n *callBlockNode) run(r *render, f *frame) signal {
	r.line = n.line
	callee := n.call.of.eval(r, f)
	a := n.call.argList.eval(r, f)
	a.names, a.kwargs = append(a.names, "caller"), append(a.kwargs, &macro{node: n.body, frame: f})
	s, ok := asText(r.call(callee, a))
	if !ok {
		typeError("a call block must give a text")
	}
	r.write(s)
	return goOn
}
