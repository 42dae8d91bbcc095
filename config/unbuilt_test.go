package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestObeyedFieldsAreRead: a field that the docs call obeyed is read by somebody, as far as that shows in the sources.
func TestObeyedFieldsAreRead(t *testing.T) {
	var sources strings.Builder
	for _, folder := range []string{"engine", "cmd/dsbatch", "plan"} {
		names, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(names, "conflict.go") { // some fields only have to agree with others
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sources.Write(text)
		}
	}
	read := map[string]string{"KernelInject": "Fused"} // by way of a method
	for i := range fields {
		f := &fields[i]
		if f.set == nil || f.tuple {
			continue
		}
		in, err := example(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, place := range filled(reflect.ValueOf(in), "") {
			if by, ok := read[place]; ok {
				place = by
			}
			if !regexp.MustCompile(`\.` + regexp.QuoteMeta(place) + `\b`).MatchString(sources.String()) {
				t.Errorf("%s: docs call it obeyed, but nobody reads Inference.%s", f.path, place)
			}
		}
	}
}

// example is what the field's example alone makes.
func example(f *field) (Inference, error) {
	sections := strings.Split(f.path, ".")
	value := f.example
	if f.refuse != "" { // all but what it accepts
		value = f.accept[len(f.accept)-1]
	}
	top, err := parseTree("f.yaml", []byte(strings.Join(sections, ": {")+": "+value+strings.Repeat("}", len(sections)-1)))
	if err != nil {
		return Inference{}, err
	}
	all, _, err := collect(top)
	if err != nil {
		return Inference{}, err
	}
	return all.inference()
}

// filled lists the exported fields that are not zero, as Go selects them.
func filled(v reflect.Value, path string) (places []string) {
	if v.Kind() != reflect.Struct {
		if v.IsZero() {
			return nil
		}
		return []string{strings.TrimPrefix(path, ".")}
	}
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() {
			places = append(places, filled(v.Field(i), path+"."+f.Name)...)
		}
	}
	return places
}

func TestUnbuiltFlags(t *testing.T) {
	for i := range Flags {
		f := &Flags[i]
		j := New()
		if err := j.RefuseUnbuilt(); err != nil {
			t.Fatal("the defaults: ", err)
		}
		for _, v := range f.Built {
			if v != "" {
				if err := f.set(j, v); err != nil {
					t.Errorf("--%s %s: %v", f.Name, v, err)
				}
			}
			if err := j.RefuseUnbuilt(); err != nil {
				t.Errorf("--%s %s: %v", f.Name, v, err)
			}
		}
	}
	for _, c := range []struct{ flag, value, want string }{
		{"fake-nodes", "2", "--fake-nodes: 2 is not built yet; leave it out"},
	} {
		j := New()
		f := lookup(c.flag)
		if f.Built == nil {
			continue // built since
		}
		if err := f.set(j, c.value); err != nil {
			t.Fatal(err)
		}
		if err := j.RefuseUnbuilt(); err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
		if !strings.Contains(f.Usage(), "built yet") || !strings.Contains(f.explain(), "uilt yet") {
			t.Errorf("--%s: neither help nor docs say so", c.flag)
		}
	}
}
