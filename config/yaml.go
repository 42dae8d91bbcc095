package config

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

type yamlTree struct {
	path    string
	anchors map[string]ast.Node
	aliases int // followed so far
}

// deepest is how many brackets may be open at once: the parser takes memory by the square of that. Settings need two.
const deepest = 1000

func parseYAML(path string, content []byte) (node, error) {
	open, at := 0, place{path, 1}
	for _, c := range content {
		switch c {
		case '\n':
			at.line++
		case '[', '{':
			open++
		case ']', '}':
			open = max(open-1, 0)
		}
		if open > deepest {
			return node{}, at.errorAt("", "more than %d brackets are open; write plain values", deepest)
		}
	}
	file, err := parser.ParseBytes(content, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return node{}, yamlError(path, err)
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		return node{at: place{file: path}}, nil
	case 1:
		t := yamlTree{path: path, anchors: map[string]ast.Node{}}
		return t.value(bodies[0])
	}
	return node{}, place{path, line(bodies[1])}.errorAt("", "a second document begins; put all settings into one")
}

// yamlError takes the line and the sentence out of the parser's error, which is printed with an excerpt of the file.
func yamlError(path string, err error) error {
	p := place{file: path}
	var e yaml.Error
	if !errors.As(err, &e) {
		return p.errorAt("", "is not YAML: %w", err)
	}
	if tok := e.GetToken(); tok != nil && tok.Position != nil {
		p.line = tok.Position.Line
	}
	return p.errorAt("", "is not YAML: %s", e.GetMessage())
}

func line(n ast.Node) int {
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		return tok.Position.Line
	}
	return 0
}

func (t *yamlTree) value(from ast.Node) (node, error) {
	n := node{at: place{t.path, line(from)}}
	switch v := from.(type) {
	case nil, *ast.NullNode:
		n.kind = null
	case *ast.BoolNode:
		n.kind, n.text = boolean, strconv.FormatBool(v.Value)
	case *ast.IntegerNode:
		n.kind, n.text = number, strings.ReplaceAll(v.Token.Value, "_", "")
	case *ast.FloatNode:
		n.kind, n.text = number, strings.ReplaceAll(v.Token.Value, "_", "")
	case *ast.InfinityNode:
		n.kind, n.text = number, strconv.FormatFloat(v.Value, 'g', -1, 64)
	case *ast.NanNode:
		n.kind, n.text = number, "NaN"
	case *ast.StringNode:
		n.kind, n.text = text, v.Value
	case *ast.LiteralNode:
		n.kind, n.text = text, v.Value.Value
	case *ast.TagNode:
		return t.value(v.Value)
	case *ast.AnchorNode:
		t.anchors[v.Name.String()] = v.Value
		return t.value(v.Value)
	case *ast.AliasNode:
		return t.alias(v)
	case *ast.SequenceNode:
		n.kind = list
		for _, item := range v.Values {
			x, err := t.value(item)
			if err != nil {
				return node{}, err
			}
			n.items = append(n.items, x)
		}
	case *ast.MappingNode:
		return t.table(n, v.Values)
	case *ast.MappingValueNode:
		return t.table(n, []*ast.MappingValueNode{v})
	default:
		return node{}, n.at.errorAt("", "%s is not understood here; write a plain value", from.Type())
	}
	return n, nil
}

// maxAliases bounds the aliases of a file, against one that contains itself or grows without end.
const maxAliases = 100

func (t *yamlTree) alias(v *ast.AliasNode) (node, error) {
	at, name := place{t.path, line(v)}, v.Value.String()
	target, ok := t.anchors[name]
	if !ok {
		return node{}, at.errorAt("", "no anchor &%s stands before *%s", name, name)
	}
	if t.aliases++; t.aliases > maxAliases {
		return node{}, at.errorAt("", "more than %d aliases are followed up to *%s; write the values out", maxAliases, name)
	}
	return t.value(target)
}

func (t *yamlTree) table(n node, values []*ast.MappingValueNode) (node, error) {
	n.kind = table
	var merged []entry // from <<, which what is written here wins over
	for _, v := range values {
		e := entry{key: v.Key.String(), at: place{t.path, line(v.Key)}}
		if s, ok := v.Key.(*ast.StringNode); ok {
			e.key = s.Value
		}
		var err error
		if e.value, err = t.value(v.Value); err != nil {
			return node{}, err
		}
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			for _, m := range append([]node{e.value}, e.value.items...) {
				merged = append(merged, m.keys...)
			}
			continue
		}
		if err := n.add(e); err != nil {
			return node{}, err
		}
	}
	for _, e := range merged {
		if !slices.ContainsFunc(n.keys, func(o entry) bool { return o.key == e.key }) {
			n.keys = append(n.keys, e)
		}
	}
	return n, nil
}
