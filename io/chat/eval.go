package chat

import (
	"slices"
	"strings"
)

func (n constNode) eval(*render, *frame) value { return n.v }

func (n *nameNode) eval(_ *render, f *frame) value {
	if v := f.at(n.up).vars[n.slot]; v != nil {
		return v
	}
	return &undefined{name: n.name}
}

func (r *render) all(list []expr, f *frame) []value {
	out := make([]value, len(list))
	for i, e := range list {
		out[i] = e.eval(r, f)
	}
	return out
}

func (n *listNode) eval(r *render, f *frame) value {
	r.hold(len(n.items))
	return &list{items: r.all(n.items, f), tuple: n.tuple}
}

func (n *dictNode) eval(r *render, f *frame) value {
	r.hold(2 * len(n.keys))
	d := &dict{}
	for i, k := range n.keys {
		r.put(d, k.eval(r, f), n.values[i].eval(r, f))
	}
	return d
}

// put is d[key] = v.
func (r *render) put(d *dict, key, v value) {
	if !d.set(key, v) {
		typeError("unhashable type: '%s'", typeName(key))
	}
}

func (n *condNode) eval(r *render, f *frame) value {
	r.step(1)
	switch {
	case truth(n.test.eval(r, f)):
		return n.then.eval(r, f)
	case n.otherwise != nil:
		return n.otherwise.eval(r, f)
	}
	return &undefined{hint: "the inline if-expression evaluated to false and no else section was defined."}
}

func (n *andNode) eval(r *render, f *frame) value {
	r.step(1)
	if v := n.left.eval(r, f); !truth(v) {
		return v
	}
	return n.right.eval(r, f)
}

func (n *orNode) eval(r *render, f *frame) value {
	r.step(1)
	if v := n.left.eval(r, f); truth(v) {
		return v
	}
	return n.right.eval(r, f)
}

func (n *notNode) eval(r *render, f *frame) value { return !truth(n.of.eval(r, f)) }

func (n *compareNode) eval(r *render, f *frame) value {
	left := n.first.eval(r, f)
	for i, op := range n.ops {
		r.step(1)
		right := n.rest[i].eval(r, f)
		if !r.compare(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

func (n *binaryNode) eval(r *render, f *frame) value {
	r.step(1)
	left := n.left.eval(r, f)
	return r.binary(n.op, left, n.right.eval(r, f))
}

func (n *unaryNode) eval(r *render, f *frame) value {
	r.step(1)
	return r.unary(n.minus, n.of.eval(r, f))
}

func (n *concatNode) eval(r *render, f *frame) value {
	var out strings.Builder
	for _, v := range r.all(n.parts, f) {
		s := r.str(v)
		r.make(len(s))
		out.WriteString(s)
	}
	return out.String()
}

func (n *attrNode) eval(r *render, f *frame) value {
	r.step(1)
	return r.attr(n.of.eval(r, f), n.name)
}

func (n *itemNode) eval(r *render, f *frame) value {
	r.step(1)
	of := n.of.eval(r, f)
	return r.item(of, n.index.eval(r, f))
}

func (n *sliceNode) eval(r *render, f *frame) value {
	r.step(1)
	of := n.of.eval(r, f)
	var bounds [3]value
	for i, e := range []expr{n.from, n.to, n.step} {
		bounds[i] = none
		if e != nil {
			bounds[i] = e.eval(r, f)
		}
	}
	return r.slice(of, bounds)
}

// arguments of a call, in order.
type arguments struct {
	args   []value
	names  []string
	kwargs []value
}

func (a *argList) eval(r *render, f *frame) *arguments {
	out := &arguments{args: r.all(a.args, f), names: slices.Clip(a.names), kwargs: r.all(a.kwargs, f)}
	if a.star != nil {
		out.args = append(out.args, r.items(a.star.eval(r, f))...)
	}
	if a.stars != nil {
		v := a.stars.eval(r, f)
		d, ok := v.(*dict)
		if !ok {
			typeError("argument after ** must be a mapping, not %s", typeName(v))
		}
		for i, key := range d.keys {
			name, ok := key.(string)
			if !ok {
				typeError("keywords must be strings")
			}
			if slices.Contains(out.names, name) {
				typeError("got multiple values for keyword argument '%s'", name)
			}
			out.names, out.kwargs = append(out.names, name), append(out.kwargs, d.values[i])
		}
	}
	return out
}

// bind gives the named parameters of a function what it was called with; nil where nothing was given. A name that ends
// with = may be left out; behind "*" names must be given by name.
func (a *arguments) bind(function string, params ...string) []value {
	out := make([]value, len(params))
	positional := len(params)
	if i := slices.Index(params, "*"); i >= 0 {
		positional = i
	}
	if len(a.args) > positional {
		typeError("%s() takes at most %d arguments (%d given)", function, positional, len(a.args))
	}
	copy(out, a.args)
	for i, name := range a.names {
		at := slices.IndexFunc(params, func(p string) bool { return strings.TrimSuffix(p, "=") == name && p != "*" })
		if at < 0 {
			typeError("%s() got an unexpected keyword argument '%s'", function, name)
		}
		if out[at] != nil {
			typeError("%s() got multiple values for argument '%s'", function, name)
		}
		out[at] = a.kwargs[i]
	}
	for i, p := range params {
		if out[i] == nil && p != "*" && !strings.HasSuffix(p, "=") {
			typeError("%s() missing the argument '%s'", function, p)
		}
	}
	return out
}

func (n *callNode) eval(r *render, f *frame) value {
	r.step(1)
	callee := n.of.eval(r, f)
	return r.call(callee, n.argList.eval(r, f))
}

func (r *render) call(callee value, a *arguments) value {
	switch c := callee.(type) {
	case *function:
		return c.call(r, a)
	case *macro:
		return c.invoke(r, a)
	case *loop:
		return c.again(r, a)
	case *undefined:
		panic(c.fault())
	}
	typeError("'%s' object is not callable", typeName(callee))
	return nil
}

func (n *filterNode) eval(r *render, f *frame) value {
	return n.apply(r, n.of.eval(r, f), f)
}

func (n *filterNode) apply(r *render, v value, f *frame) value {
	r.step(1)
	if n.do == nil {
		panic(noFilter(n.name))
	}
	return n.do(r, v, n.argList.eval(r, f))
}

func noFilter(name string) *Error {
	return fault("TemplateAssertionError", "No filter named %s.", quoted(name))
}

func noTest(name string) *Error {
	return fault("TemplateAssertionError", "No test named %s.", quoted(name))
}

func (n *testNode) eval(r *render, f *frame) value {
	r.step(1)
	if n.do == nil {
		panic(noTest(n.name))
	}
	v := n.of.eval(r, f)
	return n.do(r, v, n.argList.eval(r, f))
}
