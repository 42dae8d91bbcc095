package chat

import "slices"

// mentions tells whether a body reads a name that it has not written before.
func mentions(body []stmt, name string) bool {
	m := mention{name: name}
	m.statements(body)
	return m.found
}

type mention struct {
	name          string
	found, hidden bool
}

func (m *mention) exprs(all ...expr) {
	for _, e := range all {
		walk(e, func(e expr) {
			if n, ok := e.(*nameNode); ok && n.name == m.name && !m.hidden {
				m.found = true
			}
		})
	}
}

func (m *mention) target(t target) {
	for _, part := range t.tuple {
		m.target(part)
	}
	if t.name != nil && t.attr == "" && t.name.name == m.name {
		m.hidden = true
	}
}

func (m *mention) statements(body []stmt) {
	for _, x := range body {
		switch x := x.(type) {
		case *outputNode:
			m.exprs(x.parts...)
		case *ifNode:
			for i, test := range x.tests {
				m.exprs(test)
				m.statements(x.bodies[i])
			}
			m.statements(x.otherwise)
		case *forNode:
			m.exprs(x.in, x.test)
			m.target(x.to)
			m.statements(x.body)
			m.statements(x.otherwise)
		case *setNode:
			m.target(x.to)
			m.exprs(x.of)
		case *setBlockNode:
			m.target(x.to)
			m.exprs(x.filter)
			m.statements(x.body)
		case *macroNode:
			m.macro(x)
		case *callBlockNode:
			m.exprs(x.call)
			m.macro(x.body)
		case *filterBlockNode:
			m.exprs(x.filter)
			m.statements(x.body)
		case *withNode:
			m.exprs(x.values...)
			for _, t := range x.to {
				m.target(t)
			}
			m.statements(x.body)
		case *scopeNode:
			if !x.apart {
				m.exprs(x.escape)
				m.statements(x.body)
			}
		}
	}
}

func (m *mention) macro(x *macroNode) {
	if slices.Contains(x.params, m.name) {
		m.hidden = true
	}
	m.exprs(x.defaults...)
	m.statements(x.body)
}
