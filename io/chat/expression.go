package chat

import "slices"

// expression reads one, with "a if b else c".
func (p *parser) expression() expr {
	defer p.nest()()
	e := p.or()
	for links := 0; p.word("if"); p.link(&links) {
		n := &condNode{then: e, test: p.or()}
		if p.word("else") {
			n.otherwise = p.expression()
		}
		e = n
	}
	return e
}

// tuple reads an expression, or several with commas between them. With explicit parentheses it may be empty.
func (p *parser) tuple(conditions, parentheses bool, ends ...string) expr {
	var items []expr
	isTuple := false
	for {
		t := p.now()
		if t.kind == variableEnd || t.kind == blockEnd || t.is(operatorToken, ")") || t.kind == nameToken && slices.Contains(ends, t.text) {
			break
		}
		if conditions {
			items = append(items, p.expression())
		} else {
			items = append(items, p.or())
		}
		if !p.op(",") {
			break
		}
		isTuple = true
	}
	if !isTuple && len(items) == 1 {
		return items[0]
	}
	if !isTuple && !parentheses {
		p.fail("Expected an expression, got '%s'", p.now())
	}
	return &listNode{items: items, tuple: true}
}

func (p *parser) or() expr {
	e := p.and()
	for n := 0; p.word("or"); p.link(&n) {
		e = &orNode{e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for n := 0; p.word("and"); p.link(&n) {
		e = &andNode{e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	defer p.nest()()
	if p.word("not") {
		return &notNode{p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	n := &compareNode{first: p.sum()}
	for {
		t := p.now()
		switch {
		case t.kind == operatorToken && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text), t.is(nameToken, "in"):
			p.next()
			n.ops = append(n.ops, t.text)
		case t.is(nameToken, "not") && p.ahead().is(nameToken, "in"):
			p.at += 2
			n.ops = append(n.ops, "not in")
		case len(n.ops) == 0:
			return n.first
		default:
			return n
		}
		n.rest = append(n.rest, p.sum())
	}
}

// link counts the links of a chain as long as the tree gets deep by it.
func (p *parser) link(n *int) {
	if *n++; *n > maxChain {
		p.fail("a chain of operators, filters or calls has more than %d links", maxChain)
	}
}

// operators reads a chain of binary operators of one strength, the first ones first.
func (p *parser) operators(ops []string, part func() expr) expr {
	e := part()
	for n := 0; ; p.link(&n) {
		t := p.now()
		if t.kind != operatorToken || !slices.Contains(ops, t.text) {
			return e
		}
		p.next()
		e = &binaryNode{op: t.text, left: e, right: part()}
	}
}

func (p *parser) sum() expr { return p.operators([]string{"+", "-"}, p.concat) }

func (p *parser) concat() expr {
	e := p.product()
	if !p.now().is(operatorToken, "~") {
		return e
	}
	n := &concatNode{parts: []expr{e}}
	for p.op("~") {
		n.parts = append(n.parts, p.product())
	}
	return n
}

func (p *parser) product() expr { return p.operators([]string{"*", "/", "//", "%"}, p.power) }

func (p *parser) power() expr {
	return p.operators([]string{"**"}, func() expr { return p.unary(true) })
}

func (p *parser) unary(filters bool) expr {
	defer p.nest()()
	var e expr
	switch {
	case p.op("-"):
		e = &unaryNode{minus: true, of: p.unary(false)}
	case p.op("+"):
		e = &unaryNode{of: p.unary(false)}
	default:
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.filters(e)
	}
	return e
}

func isConstant(name string) bool {
	return slices.Contains([]string{"true", "True", "false", "False", "none", "None"}, name)
}

func (p *parser) primary() expr {
	t := p.now()
	switch t.kind {
	case nameToken:
		p.next()
		switch t.text {
		case "true", "True":
			return constNode{true}
		case "false", "False":
			return constNode{false}
		case "none", "None":
			return constNode{none}
		}
		return &nameNode{name: t.text}
	case textToken:
		all := ""
		for p.now().kind == textToken {
			all += p.next().text
		}
		return constNode{all}
	case integerToken, floatToken:
		p.next()
		return constNode{t.value}
	case operatorToken:
		switch t.text {
		case "(":
			p.next()
			e := p.tuple(true, true)
			p.need(operatorToken, ")")
			return e
		case "[":
			p.next()
			n := &listNode{}
			p.items("]", func() { n.items = append(n.items, p.expression()) })
			return n
		case "{":
			p.next()
			n := &dictNode{}
			p.items("}", func() {
				n.keys = append(n.keys, p.expression())
				p.need(operatorToken, ":")
				n.values = append(n.values, p.expression())
			})
			return n
		}
	}
	p.fail("unexpected '%s'", t)
	return nil
}

// items reads a list up to its closing bracket; a comma may stand before that.
func (p *parser) items(end string, item func()) {
	for first := true; !p.op(end); first = false {
		if !first {
			p.need(operatorToken, ",")
			if p.op(end) {
				return
			}
		}
		item()
	}
}

func (p *parser) postfix(e expr) expr {
	for n := 0; ; p.link(&n) {
		switch t := p.now(); {
		case t.is(operatorToken, "."), t.is(operatorToken, "["):
			e = p.subscript(e)
		case t.is(operatorToken, "("):
			e = &callNode{e, p.arguments()}
		default:
			return e
		}
	}
}

// filters reads filters, tests and calls behind a value.
func (p *parser) filters(e expr) expr {
	for n := 0; ; p.link(&n) {
		switch t := p.now(); {
		case t.is(operatorToken, "|"):
			p.next()
			e = p.filter(e)
		case t.is(nameToken, "is") && e != nil:
			p.next()
			e = p.test(e)
		case t.is(operatorToken, "(") && e != nil:
			e = &callNode{e, p.arguments()}
		default:
			return e
		}
	}
}

func (p *parser) subscript(e expr) expr {
	if p.op(".") {
		switch t := p.next(); t.kind {
		case nameToken:
			return &attrNode{e, t.text}
		case integerToken:
			return &itemNode{e, constNode{t.value}}
		}
		p.fail("expected name or number")
	}
	p.need(operatorToken, "[")
	var all []expr
	for !p.op("]") {
		if len(all) > 0 {
			p.need(operatorToken, ",")
		}
		all = append(all, p.index(e))
	}
	if len(all) == 1 {
		if s, ok := all[0].(*sliceNode); ok {
			return s
		}
		return &itemNode{e, all[0]}
	}
	for _, x := range all {
		if _, ok := x.(*sliceNode); ok {
			p.fail("a slice among several indices")
		}
	}
	return &itemNode{e, &listNode{items: all, tuple: true}}
}

// index reads what stands in brackets behind e: an expression or a slice.
func (p *parser) index(e expr) expr {
	n := &sliceNode{of: e}
	if !p.now().is(operatorToken, ":") {
		n.from = p.expression()
		if !p.now().is(operatorToken, ":") {
			return n.from
		}
	}
	p.next()
	part := func() expr {
		if t := p.now(); t.is(operatorToken, ":") || t.is(operatorToken, "]") || t.is(operatorToken, ",") {
			return nil
		}
		return p.expression()
	}
	n.to = part()
	if p.op(":") {
		n.step = part()
	}
	return n
}

func (p *parser) arguments() (a argList) {
	p.need(operatorToken, "(")
	ensure := func(ok bool) {
		if !ok {
			p.fail("invalid syntax for function call expression")
		}
	}
	p.items(")", func() {
		switch t := p.now(); {
		case p.op("*"):
			ensure(a.star == nil && a.stars == nil)
			a.star = p.expression()
		case p.op("**"):
			ensure(a.stars == nil)
			a.stars = p.expression()
		case t.kind == nameToken && p.ahead().is(operatorToken, "="):
			ensure(a.stars == nil && !slices.Contains(a.names, t.text))
			p.at += 2
			a.names, a.kwargs = append(a.names, t.text), append(a.kwargs, p.expression())
		default:
			ensure(a.star == nil && a.stars == nil && len(a.kwargs) == 0)
			a.args = append(a.args, p.expression())
		}
	})
	return a
}

// dotted reads a name with dots in it.
func (p *parser) dotted() string {
	name := p.need(nameToken, "").text
	for p.op(".") {
		name += "." + p.need(nameToken, "").text
	}
	return name
}

func (p *parser) filter(e expr) expr {
	n := &filterNode{of: e, name: p.dotted()}
	if p.now().is(operatorToken, "(") {
		n.argList = p.arguments()
	}
	return n
}

func (p *parser) test(e expr) expr {
	not := p.word("not")
	n := &testNode{of: e, name: p.dotted()}
	switch t := p.now(); {
	case t.is(operatorToken, "("):
		n.argList = p.arguments()
	case t.is(nameToken, "is"):
		p.fail("You cannot chain multiple tests with is")
	case t.kind == nameToken && t.text != "else" && t.text != "or" && t.text != "and",
		t.kind == textToken, t.kind == integerToken, t.kind == floatToken, t.is(operatorToken, "["), t.is(operatorToken, "{"):
		n.args = []expr{p.postfix(p.primary())}
	}
	if not {
		return &notNode{n}
	}
	return n
}
