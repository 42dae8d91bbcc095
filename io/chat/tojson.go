package chat

import (
	"fmt"
	"math"
	"math/big"
	"sort"
	"strconv"
	"strings"
)

// jsonWriter is Python's json.dumps.
type jsonWriter struct {
	strings.Builder
	*budget
	r           *render
	ascii, sort bool
	indented    bool
	indent      string
	comma       string
	colon       string
}

func tojson(r *render, v value, a *arguments) value {
	b := a.bind("tojson", "ensure_ascii=", "indent=", "separators=", "sort_keys=")
	w := &jsonWriter{budget: &r.budget, r: r, comma: ", ", colon: ": "}
	w.ascii, w.sort = b[0] != nil && truth(b[0]), b[3] != nil && truth(b[3])
	if b[1] != nil && b[1] != none {
		w.indented, w.comma = true, ","
		if s, ok := asText(b[1]); ok {
			w.indent = s
		} else if n, ok := asInt(b[1]); ok {
			n = max(n, 0)
			r.make(int(min(n, maxMade)))
			w.indent = strings.Repeat(" ", int(n))
		} else {
			typeError("can't multiply sequence by non-int of type '%s'", typeName(b[1]))
		}
	}
	if b[2] != nil && b[2] != none {
		pair := r.items(b[2])
		if len(pair) != 2 {
			fail("ValueError", "separators are a pair of texts, not %d", len(pair))
		}
		var ok, also bool
		w.comma, ok = asText(pair[0])
		w.colon, also = asText(pair[1])
		if !ok || !also {
			typeError("separators are a pair of texts")
		}
	}
	w.value(v, 0)
	return w.String()
}

func (w *jsonWriter) text(s string) {
	w.make(len(s))
	w.WriteString(s)
}

func (w *jsonWriter) value(v value, deep int) {
	deepEnough(deep)
	w.step(1)
	switch v := v.(type) {
	case string:
		w.quoted(v)
	case markup:
		w.quoted(string(v))
	case noneType:
		w.text("null")
	case bool:
		w.text(strconv.FormatBool(v))
	case int64:
		w.text(strconv.FormatInt(v, 10))
	case *big.Int:
		w.text(decimal(v))
	case float64:
		w.text(jsonFloat(v))
	case *list:
		w.items("[", "]", len(v.items), deep, func(i int) { w.value(v.items[i], deep+1) })
	case *dict:
		order := make([]int, v.len())
		for i := range order {
			order[i] = i
		}
		if w.sort {
			sort.SliceStable(order, func(i, j int) bool {
				c, _ := w.r.order("<", v.keys[order[i]], v.keys[order[j]], 0)
				return c < 0
			})
		}
		w.items("{", "}", len(order), deep, func(i int) {
			w.quoted(jsonKey(v.keys[order[i]]))
			w.text(w.colon)
			w.value(v.values[order[i]], deep+1)
		})
	default:
		typeError("Object of type %s is not JSON serializable", typeName(v)[strings.LastIndexByte(typeName(v), '.')+1:])
	}
}

func (w *jsonWriter) items(open, end string, n, deep int, item func(int)) {
	w.text(open)
	for i := range n {
		if i > 0 {
			w.text(w.comma)
		}
		w.line(deep + 1)
		item(i)
	}
	if n > 0 {
		w.line(deep)
	}
	w.text(end)
}

// line begins a new one where the text is indented.
func (w *jsonWriter) line(deep int) {
	if w.indented {
		w.text("\n")
		for range deep {
			w.text(w.indent)
		}
	}
}

func jsonFloat(x float64) string {
	switch {
	case math.IsNaN(x):
		return "NaN"
	case math.IsInf(x, 1):
		return "Infinity"
	case math.IsInf(x, -1):
		return "-Infinity"
	}
	return floatText(x)
}

func jsonKey(k value) string {
	switch k := k.(type) {
	case string:
		return k
	case markup:
		return string(k)
	case noneType:
		return "null"
	case bool:
		return strconv.FormatBool(k)
	case int64:
		return strconv.FormatInt(k, 10)
	case *big.Int:
		return decimal(k)
	case float64:
		return jsonFloat(k)
	}
	typeError("keys must be str, int, float, bool or None, not %s", typeName(k))
	return ""
}

func (w *jsonWriter) quoted(s string) {
	w.make(len(s) + 2)
	w.WriteByte('"')
	from := 0
	for i, c := range s {
		var e string
		switch {
		case c == '"':
			e = `\"`
		case c == '\\':
			e = `\\`
		case c >= 0x20 && (c < 0x7f || !w.ascii):
			continue
		case c == '\n':
			e = `\n`
		case c == '\r':
			e = `\r`
		case c == '\t':
			e = `\t`
		case c == '\b':
			e = `\b`
		case c == '\f':
			e = `\f`
		case c > 0xffff:
			e = fmt.Sprintf(`\u%04x\u%04x`, 0xd800+(c-0x10000)>>10, 0xdc00+(c-0x10000)&0x3ff)
		default:
			e = fmt.Sprintf(`\u%04x`, c)
		}
		w.WriteString(s[from:i])
		w.text(e)
		from = i + len(string(c))
	}
	w.WriteString(s[from:])
	w.WriteByte('"')
}
