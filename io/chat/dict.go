package chat

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// dict is Python's: in the order of insertion, its keys any values that have a hash. Nothing changes one that a template
// can see.
type dict struct {
	keys, values []value
	index        map[any]int // by hash; nil while there are few keys
}

// few keys are found faster by looking at all of them.
const few = 8

func (d *dict) len() int { return len(d.keys) }

// get is the value of a key, or nil. A key without a hash is in no dict.
func (d *dict) get(key value) value {
	if s, ok := key.(string); ok {
		return d.text(s)
	}
	h, ok := hash(key)
	if !ok {
		return nil
	}
	if i := d.find(h); i >= 0 {
		return d.values[i]
	}
	return nil
}

func (d *dict) text(key string) value {
	if d.index != nil {
		if i, ok := d.index[key]; ok {
			return d.values[i]
		}
		return nil
	}
	for i, k := range d.keys {
		if s, ok := k.(string); ok && s == key {
			return d.values[i]
		}
	}
	return nil
}

func (d *dict) find(h any) int {
	if d.index != nil {
		if i, ok := d.index[h]; ok {
			return i
		}
		return -1
	}
	for i, k := range d.keys {
		if other, _ := hash(k); other == h {
			return i
		}
	}
	return -1
}

// set gives a key its value, in the place that it had; false where it has no hash.
func (d *dict) set(key, v value) bool {
	h, ok := hash(key)
	if !ok {
		return false
	}
	if i := d.find(h); i >= 0 {
		d.values[i] = v
		return true
	}
	d.keys, d.values = append(d.keys, key), append(d.values, v)
	switch {
	case d.index != nil:
		d.index[h] = len(d.keys) - 1
	case len(d.keys) > few:
		d.index = make(map[any]int, 2*len(d.keys))
		for i, k := range d.keys {
			h, _ := hash(k)
			d.index[h] = i
		}
	}
	return true
}

func (d *dict) copy() *dict {
	out := &dict{}
	for i, k := range d.keys {
		out.set(k, d.values[i])
	}
	return out
}

// Keys that Go's map cannot tell apart from texts and numbers by themselves.
type (
	hashBig   string
	hashTuple string
)

// hash gives equal values equal keys of a Go map: 1, 1.0 and true are one key, as in Python.
func hash(v value) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case markup:
		return string(v), true
	case int64:
		return v, true
	case bool:
		n, _ := asInt(v)
		return n, true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<63 {
			return int64(v), true
		}
		return v, true
	case *big.Int:
		return hashBig(v.String()), true
	case noneType:
		return v, true
	case *list:
		if !v.tuple {
			return nil, false
		}
		var all strings.Builder
		for _, item := range v.items {
			h, ok := hash(item)
			if !ok || all.Len() > maxRepr {
				return nil, false
			}
			writeHash(&all, h)
		}
		return hashTuple(all.String()), true
	case *dict, *view, *span, nil:
		return nil, false
	}
	return v, true // by identity
}

// writeHash writes a hash so that no two look alike; what goes by identity has no text of its own, and is alike here.
func writeHash(w *strings.Builder, h any) {
	text, kind := "", byte('o')
	switch h := h.(type) {
	case string:
		text, kind = h, 's'
	case int64:
		text, kind = strconv.FormatInt(h, 10), 'i'
	case float64:
		text, kind = strconv.FormatFloat(h, 'g', -1, 64), 'f'
	case hashBig:
		text, kind = string(h), 'i'
	case hashTuple:
		text, kind = string(h), 't'
	case noneType:
		kind = 'n'
	}
	w.WriteByte(kind)
	w.WriteString(strconv.Itoa(len(text)))
	w.WriteByte(':')
	w.WriteString(text)
}
