package chat

import "slices"

// Names are bound before a template runs, as Jinja2 does it: every loop, macro and block has a frame, a name belongs to
// the innermost frame that writes to it, and what a frame does not write is its outer frame's, or a variable given from
// outside. A name that is written before it is read is empty until then, even where an outer frame has it.

// layout is what a frame holds.
type layout struct {
	names []string
	loads []load
}

// load says what a name is when its frame begins.
type load struct {
	from     origin
	up, slot int // of the outer frame's name
}

type origin int

const (
	unset   origin = iota
	given          // by the caller
	outer          // a copy of an outer frame's
	outside        // a variable of the chat, or one built in
)

// scope is a frame while its names are looked for. The branches of an if work on copies.
type scope struct {
	parent *scope
	names  *[]string
	loads  map[string]load
	stores map[string]bool
}

func newScope(parent *scope) *scope {
	return &scope{parent: parent, names: new([]string), loads: map[string]load{}, stores: map[string]bool{}}
}

func (s *scope) has(name string) bool { _, ok := s.loads[name]; return ok }

func (s *scope) define(name string, l load) {
	if !slices.Contains(*s.names, name) {
		*s.names = append(*s.names, name)
	}
	s.loads[name] = l
}

func (s *scope) slot(name string) int { return slices.Index(*s.names, name) }

// find is where a name is seen from s.
func (s *scope) find(name string) (up, slot int, ok bool) {
	for at := s; at != nil; at, up = at.parent, up+1 {
		if at.has(name) {
			return up, at.slot(name), true
		}
	}
	return 0, 0, false
}

func (s *scope) read(name string) {
	if _, _, ok := s.find(name); !ok {
		s.define(name, load{from: outside})
	}
}

func (s *scope) write(name string) {
	s.stores[name] = true
	if s.has(name) {
		return
	}
	if up, slot, ok := s.parent.find(name); ok {
		s.define(name, load{outer, up + 1, slot})
		return
	}
	s.define(name, load{from: unset})
}

func (s *scope) param(name string) {
	s.stores[name] = true
	s.define(name, load{from: given})
}

func (s *scope) branch() *scope {
	b := &scope{parent: s.parent, names: s.names, loads: map[string]load{}, stores: map[string]bool{}}
	for k, v := range s.loads {
		b.loads[k] = v
	}
	for k := range s.stores {
		b.stores[k] = true
	}
	return b
}

// join takes over what the branches found: a name that not all of them write may be read behind them as it was before.
func (s *scope) join(branches ...*scope) {
	count := map[string]int{}
	var order []string
	for _, b := range branches {
		for name := range b.stores {
			if !s.stores[name] {
				if count[name] == 0 {
					order = append(order, name)
				}
				count[name]++
			}
		}
	}
	for _, b := range branches {
		for name, l := range b.loads {
			s.loads[name] = l
		}
		for name := range b.stores {
			s.stores[name] = true
		}
	}
	for _, name := range order {
		if count[name] == len(branches) {
			continue
		}
		if up, slot, ok := s.parent.find(name); ok {
			s.loads[name] = load{outer, up + 1, slot}
		} else {
			s.loads[name] = load{from: outside}
		}
	}
}

func (s *scope) layout() *layout {
	l := &layout{names: *s.names, loads: make([]load, len(*s.names))}
	for i, name := range l.names {
		l.loads[i] = s.loads[name]
	}
	return l
}

// collect finds the names that statements use in their own frame, in the order of the text.
func (s *scope) collect(body []stmt) {
	for _, x := range body {
		switch x := x.(type) {
		case *outputNode:
			s.reads(x.parts...)
		case *ifNode:
			s.collectIf(x, 0)
		case *forNode:
			s.reads(x.in)
		case *setNode:
			s.reads(x.of)
			s.target(x.to)
		case *setBlockNode:
			s.target(x.to)
		case *macroNode:
			s.write(x.name)
		case *callBlockNode:
			s.reads(x.call)
		case *filterBlockNode:
			s.reads(x.filter)
		case *withNode:
			s.reads(x.values...)
		case *scopeNode:
			s.reads(x.escape)
		case *loadNode:
			s.reads(x.of)
			for _, n := range x.names {
				s.write(n.name)
			}
		}
	}
}

// collectIf: all elifs together are one branch, and each has branches of its own.
func (s *scope) collectIf(n *ifNode, at int) {
	s.reads(n.tests[at])
	first, others, last := s.branch(), s.branch(), s.branch()
	first.collect(n.bodies[at])
	if at == 0 {
		for i := 1; i < len(n.tests); i++ {
			others.collectElif(n, i)
		}
		last.collect(n.otherwise)
	}
	s.join(first, others, last)
}

func (s *scope) collectElif(n *ifNode, at int) {
	s.reads(n.tests[at])
	first, others, last := s.branch(), s.branch(), s.branch()
	first.collect(n.bodies[at])
	s.join(first, others, last)
}

func (s *scope) target(t target) {
	switch {
	case t.tuple != nil:
		for _, part := range t.tuple {
			s.target(part)
		}
	case t.attr != "":
		s.read(t.name.name)
	default:
		s.write(t.name.name)
	}
}

func (s *scope) targetParams(t target) {
	for _, part := range t.tuple {
		s.targetParams(part)
	}
	if t.name != nil {
		s.param(t.name.name)
	}
}

func (s *scope) reads(all ...expr) {
	for _, e := range all {
		walk(e, func(e expr) {
			if n, ok := e.(*nameNode); ok {
				s.read(n.name)
			}
		})
	}
}

// walk calls do for e and all below it, in the order of the text as far as it matters for names.
func walk(e expr, do func(expr)) {
	if e == nil {
		return
	}
	do(e)
	for _, part := range parts(e) {
		walk(part, do)
	}
}

// parts are the nodes right below e; some may be nil.
func parts(e expr) []expr {
	list := func(first expr, a argList) []expr {
		return append(append(append([]expr{first}, a.args...), a.kwargs...), a.star, a.stars)
	}
	switch e := e.(type) {
	case *listNode:
		return e.items
	case *dictNode:
		return append(slices.Clone(e.keys), e.values...)
	case *condNode:
		return []expr{e.test, e.then, e.otherwise}
	case *andNode:
		return []expr{e.left, e.right}
	case *orNode:
		return []expr{e.left, e.right}
	case *notNode:
		return []expr{e.of}
	case *compareNode:
		return append([]expr{e.first}, e.rest...)
	case *binaryNode:
		return []expr{e.left, e.right}
	case *unaryNode:
		return []expr{e.of}
	case *concatNode:
		return e.parts
	case *attrNode:
		return []expr{e.of}
	case *itemNode:
		return []expr{e.of, e.index}
	case *sliceNode:
		return []expr{e.of, e.from, e.to, e.step}
	case *callNode:
		return list(e.of, e.argList)
	case *filterNode:
		return list(e.of, e.argList)
	case *testNode:
		return list(e.of, e.argList)
	}
	return nil
}
