package config

import (
	"flag"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestEveryFieldOfTheJobHasOneFlag(t *testing.T) {
	j := new(Job)
	flagOf := map[any]string{}
	for i := range Flags {
		f := &Flags[i]
		p := f.field(j)
		if other := flagOf[p]; other != "" {
			t.Errorf("--%s and --%s set the same field", f.Name, other)
		}
		flagOf[p] = f.Name
	}
	v := reflect.ValueOf(j).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Inference" || name == "given" {
			continue
		}
		flag := flagOf[v.Field(i).Addr().Interface()]
		if want := strings.ToLower(name); strings.ReplaceAll(flag, "-", "") != want && name != "JobFile" {
			t.Errorf("Job.%s is set by flag %q", name, flag)
		}
	}
	if len(flagOf) != v.NumField()-2 {
		t.Errorf("%d flags for %d fields", len(flagOf), v.NumField()-2)
	}
}

// TestFlagsOfTheDesign holds the names that users type: other jobs' scripts have them.
func TestFlagsOfTheDesign(t *testing.T) {
	for name := range strings.FieldsSeq(`model tag input output task job ds-config device dtype tp ep es dp pp all-to-all max-batch-tokens
		max-seqs chunk-rows kv-memory offload offload-layers threads ranks stop-before rank-timeout expert-placement limit log-format progress drop-tokens
		capacity-factor min-capacity drop-policy expert-output-bias fake-nodes prompt-column ids-column messages-column tools-column
		continuation-column pair-column id-column carry max-new-tokens min-new-tokens temperature top-k top-p min-p repetition-penalty seed stop ignore-eos n
		logprobs output-logits stride pooling truncate reference tp-invariant accept-version`) {
		if lookup(name) == nil {
			t.Errorf("no flag --%s", name)
		}
	}
}

func TestFlagTable(t *testing.T) {
	categories, last := map[string]bool{}, ""
	defaults := New()
	for i := range Flags {
		f := &Flags[i]
		if f.Category != last && categories[f.Category] {
			t.Errorf("--%s: category %s is in two places", f.Name, f.Category)
		}
		categories[f.Category], last = true, f.Category
		if f.Help == "" || strings.HasSuffix(f.Help, ".") || len(f.Choices) == 0 && !f.Bool() && strings.Count(f.Help, "`") < 2 {
			t.Errorf("--%s: help %q; want a phrase that names the value in backquotes", f.Name, f.Help)
		}
		for _, word := range f.Choices {
			if !strings.Contains(f.Usage(), word) {
				t.Errorf("--%s: usage %q does not tell of %s", f.Name, f.Usage(), word)
			}
		}
		if f.Range != "" {
			if _, _, _, _, err := interval(f.Range).bounds(); err != nil {
				t.Errorf("--%s: range %s: %v", f.Name, f.Range, err)
			}
		}
		if got := f.text(defaults); f.Default != "" && got != f.Default {
			t.Errorf("--%s: the default %q reads back as %q", f.Name, f.Default, got)
		}
		if f.Bool() && f.Default != "false" {
			t.Errorf("--%s: a flag without a value must begin as false, not %q", f.Name, f.Default)
		}
		if lookup(f.Key()) != f {
			t.Errorf("--%s is not found as %s", f.Name, f.Key())
		}
	}
}

// TestFingerprint holds which settings a resumed job keeps: those that change bits.
func TestFingerprint(t *testing.T) {
	free := map[string]bool{}
	for name := range strings.FieldsSeq(`output job ds-config ep dp pp all-to-all expert-placement ranks fake-nodes max-batch-tokens max-seqs
		kv-memory offload offload-layers threads stop-before rank-timeout accept-version log-format progress`) {
		free[name] = true
	}
	for i := range Flags {
		if f := &Flags[i]; f.Bits == free[f.Name] {
			t.Errorf("--%s: part of the fingerprint: %v", f.Name, f.Bits)
		}
	}
	j := New()
	if bits := j.Bits(); bits["temperature"] != "0" || bits["stride"] != "" {
		t.Errorf("a generating job keeps %v", bits)
	}
}

func TestBadValues(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"tp", "0", "0 is out of range; use a number at least 1"},
		{"tp", "two", `"two" is not a whole number; use a number at least 1`},
		{"ep", "-3", "-3 is out of range; use a number at least 1, or auto"},
		{"top-p", "1.5", "1.5 is out of range; use a number above 0, at most 1"},
		{"temperature", "NaN", "NaN is out of range; use a number at least 0"},
		{"temperature", "warm", `"warm" is not a number; use a number at least 0`},
		{"device", "gpu", `"gpu" is not one of auto, cpu, cuda; did you mean cuda?`},
		{"ranks", "100000", "100000 is out of range; use a number at least 1, at most 1024, or auto"},
		{"n", "100000000", "100000000 is out of range; use a number at least 1, at most 100000"},
		{"task", "genrate", `"genrate" is not one of generate, score, embed, classify, fill-mask; did you mean generate?`},
		{"dtype", "fp8", `"fp8" is not a dtype; use fp32, bf16, fp16, int8 or auto (the checkpoint's own)`},
		{"kv-memory", "lots", `"lots" is not a size; write it as 16GiB, 512MB or 1048576`},
		{"rank-timeout", "0", "0 is out of range; use a number at least 1"},
		{"rank-timeout", "later", `"later" is not a time; write it as 90s, 2m or 1h30m`},
		{"max-seqs", "1000000000000000", "1000000000000000 is out of range; use a number at least 1, at most 1000000, or auto"},
		{"seed", "-1", `"-1" is not a whole number from 0 to 2⁶⁴-1`},
		{"drop-tokens", "maybe", `"maybe" is neither true nor false`},
		{"carry", "a,,b", "has an empty entry; leave it out"},
	} {
		if err := lookup(c.flag).set(new(Job), c.value); err == nil || err.Error() != c.want {
			t.Errorf("--%s %s: %v, want %s", c.flag, c.value, err, c.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	parse := func(args ...string) (Values, error) {
		values, set := Values{}, flag.NewFlagSet("run", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		for i := range Flags {
			set.Var(values.Collect(&Flags[i]), Flags[i].Name, Flags[i].Help)
		}
		return values, set.Parse(args)
	}
	values, err := parse("--input", "a,b.parquet", "-input", "c*", "--stop", "\n", "--stop", "END,", "--carry", "x, y:z,a\\,b\\:c", "--drop-tokens",
		"--seed", "18446744073709551615", "--kv-memory=16GiB", "--limit", "all", "--es", "auto", "--output", "out")
	if err != nil {
		t.Fatal(err)
	}
	j, warnings, err := Load(values)
	if err != nil {
		t.Fatal(err)
	}
	want := New()
	want.Input, want.Stop, want.Carry = []string{"a,b.parquet", "c*"}, []string{"\n", "END,"}, []string{"x", "y:z", "a\\,b\\:c"}
	want.DropTokens, want.Seed, want.KVMemory, want.ES, want.Output = true, 1<<64-1, 16<<30, 0, "out"
	want.given, want.Inference = j.given, j.Inference
	if !reflect.DeepEqual(j, want) {
		t.Errorf("got  %+v\nwant %+v", j, want)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), "command line: --seed has no effect at temperature 0") {
		t.Errorf("warnings %v", warnings)
	}
	for _, args := range [][]string{{"--tp", "1", "--tp", "2"}, {"--tp", "x"}, {"--nonsense"}} {
		if _, err := parse(args...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}
