package chat

import (
	"math/big"
	"strings"
	"unicode/utf8"
)

// attr is v.name: a method or field of the value, else its element of that name.
func (r *render) attr(v value, name string) value {
	if u, ok := v.(*undefined); ok && name != "__class__" {
		panic(u.fault())
	}
	if found := r.member(v, name); found != nil {
		return found
	}
	if d, ok := v.(*dict); ok {
		if item := d.text(name); item != nil {
			return item
		}
	}
	return &undefined{name: name, of: v}
}

// changing are the methods that change a value, which the reference's sandbox forbids.
var changing = map[string][]string{
	"list": {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"},
	"dict": {"clear", "pop", "popitem", "setdefault", "update"},
}

// member is a method or field of v; nil where it has none of that name. What begins with an underscore is Python's own
// business, and nothing of it can be used.
func (r *render) member(v value, name string) value {
	if strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__") && len(name) > 4 || index(changing[typeName(v)], name) >= 0 {
		kind := typeName(v)
		return &undefined{name: name, of: v, kind: "SecurityError",
			hint: "access to attribute " + quoted(name) + " of " + quoted(kind[strings.LastIndexByte(kind, '.')+1:]) + " object is unsafe."}
	}
	switch v := v.(type) {
	case string:
		return method(name, textMethod(name), v)
	case markup:
		return method(name, textMethod(name), string(v))
	case *dict:
		return dictMember(v, name)
	case *list:
		return listMember(v, name)
	case *namespace:
		return v.attrs.text(name)
	case *loop:
		return v.attr(r, name)
	case *macro:
		return v.attr(name)
	case *cycler:
		return v.attr(name)
	case *span:
		switch name {
		case "start":
			return v.start
		case "stop":
			return v.stop
		case "step":
			return v.step
		case "count", "index":
			return listMember(newList(r.items(v)...), name)
		}
	case int64, bool, *big.Int, float64:
		return numberMember(v, name)
	}
	return nil
}

// method is a built-in method of a text; nil where there is none.
func method(name string, do textFunc, s string) value {
	if do == nil {
		return nil
	}
	return &function{name, func(r *render, a *arguments) value { return do(r, s, a) }}
}

func dictMember(d *dict, name string) value {
	var do func(r *render, a *arguments) value
	switch name {
	case "get":
		do = func(_ *render, a *arguments) value {
			if len(a.names) > 0 {
				typeError("dict.get() takes no keyword arguments")
			}
			args := a.bind("get", "key", "default=")
			if _, ok := hash(args[0]); !ok {
				typeError("unhashable type: '%s'", typeName(args[0]))
			}
			if v := d.get(args[0]); v != nil {
				return v
			}
			if args[1] != nil {
				return args[1]
			}
			return none
		}
	case "keys", "values", "items":
		do = func(_ *render, a *arguments) value {
			a.bind(name)
			return &view{d, "dict_" + name}
		}
	case "copy":
		do = func(r *render, a *arguments) value {
			a.bind(name)
			r.hold(2 * d.len())
			return d.copy()
		}
	case "fromkeys":
		do = func(r *render, a *arguments) value {
			args := a.bind(name, "iterable", "value=")
			if args[1] == nil {
				args[1] = none
			}
			out := &dict{}
			for _, key := range r.items(args[0]) {
				r.hold(2)
				r.put(out, key, args[1])
			}
			return out
		}
	default:
		return nil
	}
	return &function{name, do}
}

func listMember(l *list, name string) value {
	if at := index(l.names, name); at >= 0 {
		return l.items[at]
	}
	var do func(r *render, a *arguments) value
	switch {
	case name == "index":
		do = func(r *render, a *arguments) value {
			args := a.bind(name, "value", "start=", "stop=")
			bounds := [3]value{none, none, none}
			copy(bounds[:], args[1:])
			for i := range bounds {
				if bounds[i] == nil {
					bounds[i] = none
				}
			}
			from, _, n, ok := cut(bounds, len(l.items))
			if !ok {
				typeError("slice indices must be integers or None or have an __index__ method")
			}
			for i := range n {
				if r.equal(l.items[from+i], args[0], 0) {
					return int64(from + i)
				}
			}
			fail("ValueError", "%s is not in list", r.repr(args[0]))
			return nil
		}
	case name == "count":
		do = func(r *render, a *arguments) value {
			x := a.bind(name, "value")[0]
			n := int64(0)
			for _, item := range l.items {
				if r.equal(item, x, 0) {
					n++
				}
			}
			return n
		}
	case name == "copy" && !l.tuple:
		do = func(_ *render, a *arguments) value {
			a.bind(name)
			return l
		}
	default:
		return nil
	}
	return &function{name, do}
}

func numberMember(v value, name string) value {
	x, f, kind := number(v)
	switch {
	case name == "real" && kind == 'i':
		return whole(x)
	case name == "real":
		return f
	case name == "imag" && kind == 'i':
		return int64(0)
	case name == "imag":
		return 0.0
	case name == "numerator" && kind == 'i':
		return whole(x)
	case name == "denominator" && kind == 'i':
		return int64(1)
	case name == "bit_length" && kind == 'i':
		return &function{name, func(_ *render, a *arguments) value { a.bind(name); return int64(x.BitLen()) }}
	case name == "is_integer":
		return &function{name, func(_ *render, a *arguments) value {
			a.bind(name)
			return kind == 'i' || f == float64(int64(f))
		}}
	}
	return nil
}

func (c *cycler) attr(name string) value {
	switch name {
	case "current":
		return c.items[c.at]
	case "pos":
		return int64(c.at)
	case "items":
		return newTuple(c.items...)
	case "next":
		return &function{name, func(_ *render, a *arguments) value {
			a.bind(name)
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v
		}}
	case "reset":
		return &function{name, func(_ *render, a *arguments) value {
			a.bind(name)
			c.at = 0
			return none
		}}
	}
	return nil
}

// items are what a loop over v goes through.
func (r *render) items(v value) []value {
	switch v := v.(type) {
	case *list:
		return v.items
	case *dict:
		return v.keys
	case *view:
		r.hold(v.of.len())
		return v.list()
	case *span:
		r.hold(int(v.length()))
		out := make([]value, v.length())
		for i := range out {
			out[i] = v.start + int64(i)*v.step
		}
		return out
	case *stream:
		var rest []value
		for item := v.next(); item != nil; item = v.next() {
			r.hold(1)
			rest = append(rest, item)
		}
		return rest
	case *loop: // its own rest, with itself
		return nil
	case *undefined:
		return nil
	}
	if s, ok := asText(v); ok {
		r.hold(len(s))
		out := make([]value, 0, len(s))
		for _, c := range s {
			out = append(out, string(c))
		}
		return out
	}
	typeError("'%s' object is not iterable", typeName(v))
	return nil
}

// length is len(v).
func (r *render) length(v value) int64 {
	switch v := v.(type) {
	case string, markup:
		s, _ := asText(v)
		r.look(len(s))
		return int64(utf8.RuneCountInString(s))
	case *list:
		return int64(len(v.items))
	case *dict:
		return int64(v.len())
	case *view:
		return int64(v.of.len())
	case *span:
		return v.length()
	case *loop:
		return int64(len(v.items))
	case *undefined:
		return 0
	}
	typeError("object of type '%s' has no len()", typeName(v))
	return 0
}
