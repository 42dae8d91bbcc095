package chat

import "slices"

// binder gives the names of a template their places, frame by frame, and finds what the reference would not compile.
type binder struct {
	loops int  // open loops that break may leave
	soft  bool // where an unknown filter fails only when it is reached
}

// bind makes the layout of the outermost frame.
func bind(body []stmt) *layout {
	s := newScope(nil)
	s.collect(body)
	b := &binder{}
	b.statements(body, s)
	return s.layout()
}

func (b *binder) statements(body []stmt, s *scope) {
	for _, x := range body {
		b.statement(x, s)
	}
}

func (b *binder) statement(x stmt, s *scope) {
	switch x := x.(type) {
	case *outputNode:
		b.exprs(x.line, s, x.parts...)
	case *ifNode:
		defer b.softly(true)()
		b.exprs(x.line, s, x.tests...)
		for _, body := range x.bodies {
			b.statements(body, s)
		}
		b.statements(x.otherwise, s)
	case *forNode:
		b.forLoop(x, s)
	case *setNode:
		b.exprs(x.line, s, x.of)
		b.target(x.to, s)
	case *setBlockNode:
		b.target(x.to, s)
		x.frame = b.inner(s, x.body, false, func(in *scope) { in.reads(x.filter) }, func(in *scope) { b.exprs(x.line, in, x.filter) })
	case *macroNode:
		b.name(x.to, s)
		b.macro(x, s)
	case *callBlockNode:
		b.exprs(x.line, s, x.call)
		b.macro(x.body, s)
	case *filterBlockNode:
		x.frame = b.inner(s, x.body, false, func(in *scope) { in.reads(x.filter) }, func(in *scope) { b.exprs(x.line, in, x.filter) })
	case *withNode:
		b.exprs(x.line, s, x.values...)
		x.frame = b.inner(s, x.body, false, func(in *scope) {
			for _, t := range x.to {
				in.targetParams(t)
			}
		}, func(in *scope) {
			for _, t := range x.to {
				b.target(t, in)
			}
		})
	case *scopeNode:
		b.exprs(x.line, s, x.escape)
		parent := s
		if x.apart {
			parent = nil
		}
		x.frame = b.inner(parent, x.body, x.opaque, nil, nil)
	case *jumpNode:
		if b.loops == 0 {
			e := fault("SyntaxError", "break and continue belong inside a loop")
			e.Line = x.line
			panic(e)
		}
	case *loadNode:
		b.exprs(x.line, s, x.of)
		for _, n := range x.names {
			b.name(n, s)
		}
	}
}

// softly sets soft until the returned function is called.
func (b *binder) softly(soft bool) func() {
	was := b.soft
	b.soft = soft
	return func() { b.soft = was }
}

// inner binds a body with a frame of its own; apart bodies are functions that no break leaves.
func (b *binder) inner(parent *scope, body []stmt, apart bool, before, bindBefore func(*scope)) *layout {
	defer b.softly(false)()
	if loops := b.loops; apart {
		b.loops = 0
		defer func() { b.loops = loops }()
	}
	in := newScope(parent)
	if before != nil {
		before(in)
	}
	in.collect(body)
	if bindBefore != nil {
		bindBefore(in)
	}
	b.statements(body, in)
	return in.layout()
}

func (b *binder) forLoop(x *forNode, s *scope) {
	b.exprs(x.line, s, x.in)
	if x.test != nil {
		x.testFrame = b.inner(s, nil, false, func(in *scope) {
			in.targetParams(x.testTo)
			in.reads(x.test)
		}, func(in *scope) {
			b.target(x.testTo, in)
			b.exprs(x.line, in, x.test)
		})
	}
	uses := x.recursive || mentions(x.body, "loop")
	loops := b.loops
	if x.recursive {
		loops = 0
	}
	b.loops = loops + 1
	x.bodyFrame = b.inner(s, x.body, false, func(in *scope) {
		if uses {
			in.param("loop")
			x.loop = in.slot("loop")
		}
		in.targetParams(x.to)
	}, func(in *scope) { b.target(x.to, in) })
	b.loops = loops
	if x.otherwise != nil {
		x.noItem = b.inner(s, x.otherwise, false, nil, nil)
	}
}

func (b *binder) macro(x *macroNode, s *scope) {
	special := []struct {
		name string
		slot *int
	}{{"caller", &x.caller}, {"kwargs", &x.kwargs}, {"varargs", &x.varargs}}
	x.frame = b.inner(s, x.body, true, func(in *scope) {
		for _, name := range x.params {
			if in.has(name) {
				fail("SyntaxError", "macro %s has two parameters %s", x.name, name)
			}
			in.param(name)
			x.slots = append(x.slots, in.slot(name))
		}
		for _, v := range special {
			if *v.slot = -1; !slices.Contains(x.params, v.name) && mentions(x.body, v.name) {
				in.param(v.name)
				*v.slot = in.slot(v.name)
			}
		}
		in.reads(x.defaults...)
	}, func(in *scope) { b.exprs(x.line, in, x.defaults...) })
}

func (b *binder) target(t target, s *scope) {
	for _, part := range t.tuple {
		b.target(part, s)
	}
	if t.name != nil {
		b.name(t.name, s)
	}
}

func (b *binder) name(n *nameNode, s *scope) {
	n.up, n.slot, _ = s.find(n.name)
}

func (b *binder) exprs(line int, s *scope, all ...expr) {
	for _, e := range all {
		if e != nil {
			b.expr(line, s, e)
		}
	}
}

func (b *binder) expr(line int, s *scope, e expr) {
	switch e := e.(type) {
	case *nameNode:
		b.name(e, s)
	case *condNode:
		defer b.softly(true)()
	case *filterNode:
		if e.do = filterNamed(e.name); e.do == nil && !b.soft {
			unknown := noFilter(e.name)
			unknown.Line = line
			panic(unknown)
		}
	case *testNode:
		if e.do = testNamed(e.name); e.do == nil && !b.soft {
			unknown := noTest(e.name)
			unknown.Line = line
			panic(unknown)
		}
	}
	b.exprs(line, s, parts(e)...)
}
