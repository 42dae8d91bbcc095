package chat

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str(v): what {{ v }} prints.
func (r *render) str(v value) string {
	switch v := v.(type) {
	case string:
		return v
	case markup:
		return string(v)
	case *undefined:
		return ""
	}
	return r.repr(v)
}

// repr is Python's repr(v).
func (r *render) repr(v value) string {
	w := &printer{budget: &r.budget}
	w.value(v, 0)
	return w.String()
}

// printer writes values as Python shows them in a list.
type printer struct {
	strings.Builder
	*budget
	sorted bool // keys of dicts, as pprint shows them
}

func (w *printer) text(s string) {
	w.make(len(s))
	w.WriteString(s)
}

func (w *printer) value(v value, deep int) {
	deepEnough(deep)
	w.step(1)
	switch v := v.(type) {
	case string:
		w.text(quoted(v))
	case markup:
		w.text("Markup(" + quoted(string(v)) + ")")
	case int64:
		w.text(strconv.FormatInt(v, 10))
	case *big.Int:
		w.text(decimal(v))
	case float64:
		w.text(floatText(v))
	case bool:
		w.text(map[bool]string{true: "True", false: "False"}[v])
	case noneType:
		w.text("None")
	case *undefined, nil:
		w.text("Undefined")
	case *list:
		w.list(v, deep)
	case *dict:
		w.dict(v, deep)
	case *view:
		w.text(v.kind + "(")
		w.list(newList(v.list()...), deep)
		w.text(")")
	case *span:
		w.text(fmt.Sprintf("range(%d, %d", v.start, v.stop))
		if v.step != 1 {
			w.text(fmt.Sprintf(", %d", v.step))
		}
		w.text(")")
	case *namespace:
		w.text("<Namespace ")
		w.dict(v.attrs, deep)
		w.text(">")
	case *loop:
		w.text(fmt.Sprintf("<LoopContext %d/%d>", v.at+1, len(v.items)))
	case *macro:
		if v.node.to == nil {
			w.text("<Macro anonymous>")
		} else {
			w.text("<Macro " + quoted(v.node.name) + ">")
		}
	default: // the reference prints an address, which is never the same
		fail("TypeError", "a %s cannot be printed; print what is in it, as with | list", typeName(v))
	}
}

func (w *printer) list(v *list, deep int) {
	open, end := "[", "]"
	if v.tuple {
		if open, end = "(", ")"; len(v.items) == 1 {
			end = ",)"
		}
	}
	w.text(open)
	for i, item := range v.items {
		if i > 0 {
			w.text(", ")
		}
		w.value(item, deep+1)
	}
	w.text(end)
}

func (w *printer) dict(d *dict, deep int) {
	order := make([]int, d.len())
	for i := range order {
		order[i] = i
	}
	if w.sorted {
		sortTexts(order, d)
	}
	w.text("{")
	for i, at := range order {
		if i > 0 {
			w.text(", ")
		}
		w.value(d.keys[at], deep+1)
		w.text(": ")
		w.value(d.values[at], deep+1)
	}
	w.text("}")
}

// briefly is the repr of a small value, for messages.
func briefly(v value) string {
	switch v := v.(type) {
	case string:
		return quoted(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return floatText(v)
	}
	return typeName(v)
}

func decimal(x *big.Int) string {
	if x.BitLen() > maxDigits*10/3 {
		fail("ValueError", "Exceeds the limit (%d digits) for integer string conversion", maxDigits)
	}
	return x.String()
}

// floatText is the shortest text that reads back as x, as Python writes it.
func floatText(x float64) string {
	switch {
	case math.IsInf(x, 1):
		return "inf"
	case math.IsInf(x, -1):
		return "-inf"
	case math.IsNaN(x):
		return "nan"
	}
	if a := math.Abs(x); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(x, 'e', -1, 64) // two digits of exponent at least, in both languages
	}
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quoted is the repr of a text.
func quoted(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	out := make([]byte, 0, len(s)+2)
	out = append(out, quote)
	for _, c := range s {
		switch {
		case c == rune(quote) || c == '\\':
			out = append(out, '\\', byte(c))
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case unicode.IsPrint(c):
			out = utf8.AppendRune(out, c)
		default:
			out = append(out, escapedRune(c)...)
		}
	}
	return string(append(out, quote))
}

// escapedRune is the shortest of \xNN, \uNNNN and \UNNNNNNNN.
func escapedRune(c rune) string {
	switch {
	case c <= 0xff:
		return fmt.Sprintf(`\x%02x`, c)
	case c <= 0xffff:
		return fmt.Sprintf(`\u%04x`, c)
	}
	return fmt.Sprintf(`\U%08x`, c)
}

// escaped is a text with what HTML gives a meaning replaced.
func escaped(s string) string {
	return strings.NewReplacer("&", "&amp;", ">", "&gt;", "<", "&lt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}
