package chat

import (
	"slices"
	"strings"
)

// parser makes the tree of a template. The grammar is Jinja2's, with the tags break, continue and generation.
type parser struct {
	tokens []token
	at     int
	deep   int
	ends   [][]string // tags that would close the bodies that are open
	tags   []string   // those that are open
}

func parse(src string) []stmt {
	p := &parser{tokens: lex(src)}
	return p.body(nil)
}

func (p *parser) now() token { return p.tokens[p.at] }

func (p *parser) ahead() token { return p.tokens[min(p.at+1, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if p.at < len(p.tokens)-1 {
		p.at++
	}
	return t
}

func (p *parser) fail(format string, args ...any) {
	e := fault("TemplateSyntaxError", format, args...)
	e.Line = p.now().line
	panic(e)
}

// op passes an operator, where it is next.
func (p *parser) op(text string) bool { return p.skip(operatorToken, text) }

// word passes a name, where it is next.
func (p *parser) word(text string) bool { return p.skip(nameToken, text) }

func (p *parser) skip(k kind, text string) bool {
	if p.now().is(k, text) {
		p.at++
		return true
	}
	return false
}

func (p *parser) need(k kind, text string) token {
	t := p.now()
	if t.kind != k || text != "" && t.text != text {
		want := text
		if want == "" {
			want = token{kind: k, text: "name"}.String()
		}
		if t.kind == endToken {
			p.fail("unexpected end of template, expected '%s'.", want)
		}
		p.fail("expected token '%s', got '%s'", want, t)
	}
	return p.next()
}

// nest counts how deep the recursion is.
func (p *parser) nest() func() {
	if p.deep++; p.deep > maxNesting {
		p.fail("it is nested more than %d deep", maxNesting)
	}
	return func() { p.deep-- }
}

// body reads data, prints and statements up to a tag of ends, which is left to be read; nil goes to the end.
func (p *parser) body(ends []string) (out []stmt) {
	defer p.nest()()
	if ends != nil {
		p.ends = append(p.ends, ends)
		defer func() { p.ends = p.ends[:len(p.ends)-1] }()
	}
	var print *outputNode
	add := func(line int, e expr) {
		if print == nil {
			print = &outputNode{line: line}
			out = append(out, print)
		}
		print.parts = append(print.parts, e)
	}
	for {
		switch t := p.next(); t.kind {
		case endToken:
			if ends != nil {
				p.unknown("")
			}
			return out
		case dataToken:
			add(t.line, constNode{t.text})
		case variableBegin:
			add(t.line, p.tuple(true, false))
			p.need(variableEnd, "")
		default: // blockBegin
			print = nil
			if tag := p.now(); ends != nil && tag.kind == nameToken && slices.Contains(ends, tag.text) {
				return out
			}
			out = append(out, p.statement())
			p.need(blockEnd, "")
		}
	}
}

// block reads the rest of a tag and the body behind it.
func (p *parser) block(ends ...string) []stmt {
	p.op(":")
	p.need(blockEnd, "")
	return p.body(ends)
}

// closed is a body that only one tag ends, which is passed.
func (p *parser) closed(end string) []stmt {
	out := p.block(end)
	p.next()
	return out
}

// unknown fails for a tag that does not belong here, or for the end of the template.
func (p *parser) unknown(tag string) {
	said := "Unexpected end of template."
	if tag != "" {
		said = "Encountered unknown tag '" + tag + "'."
	}
	if n := len(p.ends); n > 0 {
		var looking []string
		for _, end := range p.ends[n-1] {
			looking = append(looking, "'"+end+"'")
		}
		wanted := strings.Join(looking, " or ")
		expected := slices.ContainsFunc(p.ends, func(ends []string) bool { return slices.Contains(ends, tag) })
		if tag != "" && expected {
			said += " You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for " + wanted + "."
		} else {
			said += " Jinja was looking for the following tags: " + wanted + "."
		}
	}
	if n := len(p.tags); n > 0 {
		said += " The innermost block that needs to be closed is '" + p.tags[n-1] + "'."
	}
	p.fail("%s", said)
}

func (p *parser) statement() stmt {
	tag := p.now()
	if tag.kind != nameToken {
		p.fail("tag name expected")
	}
	read := map[string]func(*parser, int) stmt{
		"if": (*parser).parseIf, "for": (*parser).parseFor, "set": (*parser).parseSet, "macro": (*parser).parseMacro,
		"call": (*parser).parseCallBlock, "filter": (*parser).parseFilterBlock, "with": (*parser).parseWith,
		"print": (*parser).parsePrint, "block": (*parser).parseBlock, "autoescape": (*parser).parseAutoescape,
		"generation": (*parser).parseGeneration, "break": (*parser).parseBreak, "continue": (*parser).parseContinue,
		"include": (*parser).parseInclude, "import": (*parser).parseImport, "from": (*parser).parseFrom,
		"extends": (*parser).parseExtends,
	}[tag.text]
	if read == nil {
		p.unknown(tag.text)
	}
	p.next()
	p.tags = append(p.tags, tag.text)
	defer func() { p.tags = p.tags[:len(p.tags)-1] }()
	return read(p, tag.line)
}

func (p *parser) parseIf(line int) stmt {
	n := &ifNode{line: line}
	for {
		n.tests = append(n.tests, p.tuple(false, false))
		n.bodies = append(n.bodies, p.block("elif", "else", "endif"))
		switch p.next().text {
		case "elif":
			continue
		case "else":
			n.otherwise = p.closed("endif")
		}
		return n
	}
}

func (p *parser) parseFor(line int) stmt {
	n := &forNode{line: line, loop: -1}
	begin := p.at
	n.to = p.target(false)
	end := p.at
	p.need(nameToken, "in")
	n.in = p.tuple(false, false, "recursive")
	if p.word("if") {
		n.test = p.expression()
		rest := p.at // the names of the target once more: the test has a frame of its own
		p.at = begin
		n.testTo = p.target(false)
		if p.at != end {
			p.fail("can't assign to this")
		}
		p.at = rest
	}
	n.recursive = p.word("recursive")
	n.body = p.block("endfor", "else")
	if p.next().text == "else" {
		n.otherwise = p.closed("endfor")
	}
	return n
}

func (p *parser) parseSet(line int) stmt {
	to := p.target(true)
	if p.op("=") {
		return &setNode{line: line, to: to, of: p.tuple(true, false)}
	}
	n := &setBlockNode{line: line, to: to}
	if p.now().is(operatorToken, "|") {
		n.filter = p.filters(nil)
	}
	n.body = p.closed("endset")
	return n
}

func (p *parser) signature(n *macroNode) {
	p.need(operatorToken, "(")
	for !p.now().is(operatorToken, ")") {
		if len(n.params) > 0 {
			p.need(operatorToken, ",")
		}
		n.params = append(n.params, p.storeName().name)
		if p.op("=") {
			n.defaults = append(n.defaults, p.expression())
		} else if len(n.defaults) > 0 {
			p.fail("non-default argument follows default argument")
		}
	}
	p.next()
}

func (p *parser) parseMacro(line int) stmt {
	n := &macroNode{line: line, to: p.storeName()}
	n.name = n.to.name
	p.signature(n)
	n.body = p.closed("endmacro")
	return n
}

func (p *parser) parseCallBlock(line int) stmt {
	body := &macroNode{line: line}
	if p.now().is(operatorToken, "(") {
		p.signature(body)
	}
	call, ok := p.expression().(*callNode)
	if !ok {
		p.fail("expected call")
	}
	body.body = p.closed("endcall")
	return &callBlockNode{line: line, call: call, body: body}
}

func (p *parser) parseFilterBlock(line int) stmt {
	n := &filterBlockNode{line: line}
	n.filter = p.filters(p.filter(nil))
	n.body = p.closed("endfilter")
	return n
}

func (p *parser) parseWith(line int) stmt {
	n := &withNode{line: line}
	for p.now().kind != blockEnd {
		if len(n.to) > 0 {
			p.need(operatorToken, ",")
		}
		n.to = append(n.to, p.target(false))
		p.need(operatorToken, "=")
		n.values = append(n.values, p.expression())
	}
	n.body = p.closed("endwith")
	return n
}

func (p *parser) parsePrint(line int) stmt {
	n := &outputNode{line: line}
	for p.now().kind != blockEnd {
		if len(n.parts) > 0 {
			p.need(operatorToken, ",")
		}
		n.parts = append(n.parts, p.expression())
	}
	return n
}

func (p *parser) parseBlock(line int) stmt {
	n := &scopeNode{line: line, opaque: true, apart: true}
	name := p.need(nameToken, "").text
	if p.word("scoped") {
		n.apart = false
	}
	if p.word("required") {
		p.fail("a required block needs a template that extends this one, and there is none")
	}
	n.body = p.closed("endblock")
	p.word(name)
	return n
}

func (p *parser) parseAutoescape(line int) stmt {
	n := &scopeNode{line: line, escape: p.expression()}
	n.body = p.closed("endautoescape")
	return n
}

// parseGeneration reads what marks the assistant's own words, for training: it is printed as any other text.
func (p *parser) parseGeneration(line int) stmt {
	return &scopeNode{line: line, opaque: true, body: p.closed("endgeneration")}
}

func (p *parser) parseBreak(line int) stmt { return &jumpNode{line, breaks} }

func (p *parser) parseContinue(line int) stmt { return &jumpNode{line, continues} }

func (p *parser) parseInclude(line int) stmt {
	n := &loadNode{line: line, of: p.expression()}
	if p.now().is(nameToken, "ignore") && p.ahead().is(nameToken, "missing") {
		p.at += 2
	}
	p.context()
	return n
}

// context passes "with context" and "without context".
func (p *parser) context() bool {
	if (p.now().is(nameToken, "with") || p.now().is(nameToken, "without")) && p.ahead().is(nameToken, "context") {
		p.at += 2
		return true
	}
	return false
}

func (p *parser) parseImport(line int) stmt {
	n := &loadNode{line: line, of: p.expression()}
	p.need(nameToken, "as")
	n.names = append(n.names, p.storeName())
	p.context()
	return n
}

func (p *parser) parseFrom(line int) stmt {
	n := &loadNode{line: line, of: p.expression()}
	p.need(nameToken, "import")
	for {
		if p.context() {
			return n
		}
		name := p.storeName()
		if p.word("as") {
			name = p.storeName()
		}
		n.names = append(n.names, name)
		if p.context() || !p.op(",") {
			return n
		}
	}
}

func (p *parser) parseExtends(line int) stmt { return &loadNode{line: line, of: p.expression()} }

// storeName reads one name to be written to.
func (p *parser) storeName() *nameNode {
	t := p.need(nameToken, "")
	if isConstant(t.text) {
		p.fail("can't assign to 'const'")
	}
	return &nameNode{name: t.text}
}

// target reads what a value is given to.
func (p *parser) target(namespace bool) target {
	var all []target
	for {
		if t := p.now(); len(all) > 0 && (t.kind == blockEnd || t.is(nameToken, "in") || t.is(operatorToken, ")")) {
			break // behind a comma that ends the tuple
		}
		all = append(all, p.oneTarget(namespace))
		if !p.now().is(operatorToken, ",") {
			if len(all) == 1 {
				return all[0]
			}
			break
		}
		p.next()
	}
	return target{tuple: all}
}

func (p *parser) oneTarget(namespace bool) target {
	defer p.nest()()
	if p.op("(") {
		t := p.target(namespace)
		p.need(operatorToken, ")")
		return t
	}
	t := target{name: p.storeName()}
	if namespace && p.op(".") {
		t.attr = p.need(nameToken, "").text
	}
	return t
}
