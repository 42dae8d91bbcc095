package config

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// treeOf makes a tree of a Go map, as engine.InitInference is given; name says which argument it was. Maps are walked
// in order of their keys, so that errors do not depend on the run.
func treeOf(name string, v any) node {
	n := node{at: place{file: name}}
	r := reflect.ValueOf(v)
	for r.Kind() == reflect.Pointer || r.Kind() == reflect.Interface {
		r = r.Elem()
	}
	switch {
	case !r.IsValid():
		n.kind = null
	case r.Kind() == reflect.Bool:
		n.kind, n.text = boolean, strconv.FormatBool(r.Bool())
	case r.CanInt():
		n.kind, n.text = number, strconv.FormatInt(r.Int(), 10)
	case r.CanUint():
		n.kind, n.text = number, strconv.FormatUint(r.Uint(), 10)
	case r.CanFloat():
		n.kind, n.text = number, strconv.FormatFloat(r.Float(), 'g', -1, 64)
	case r.Kind() == reflect.String:
		n.kind, n.text = text, r.String()
	case r.Kind() == reflect.Slice || r.Kind() == reflect.Array:
		n.kind = list
		for i := range r.Len() {
			n.items = append(n.items, treeOf(name, r.Index(i).Interface()))
		}
	case r.Kind() == reflect.Map && r.Type().Key().Kind() == reflect.String:
		n.kind = table
		values := map[string]any{}
		for _, k := range r.MapKeys() {
			values[k.String()] = r.MapIndex(k).Interface()
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			n.keys = append(n.keys, entry{key: k, at: n.at, value: treeOf(name, values[k])})
		}
	default:
		n.kind, n.text = object, r.Type().String()
	}
	return n
}
