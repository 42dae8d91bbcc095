package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInjectionPolicy runs a model of an architecture that dsbatch does not know, whose row-parallel linears a config of
// DeepSpeed's names: it is told what was understood of it, by run, plan and ckpt inspect.
func TestInjectionPolicy(t *testing.T) {
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(goldens, "llama"))); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(folder, "config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), "LlamaForCausalLM", "NewForCausalLM", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	named := write(t, "ds.json", `{"injection_policy_tuple": ["self_attn.o_proj", "mlp.down_proj"], "tensor_parallel": {"tp_size": 2}}`)
	rows := write(t, "rows.jsonl", `{"ids": [1, 5, 9]}`)
	args := func(command string, more ...string) []string {
		return append([]string{command, "--model", folder, "--input", rows, "--ids-column", "ids", "--max-new-tokens", "4", "--output", filepath.Join(t.TempDir(), "out")}, more...)
	}
	const understood = "attention: RMSNorm input_layernorm, then self_attn.q_proj, self_attn.k_proj, self_attn.v_proj, then self_attn.o_proj"
	if e := dsbatch(t, args("run", "--ranks", "2", "--threads", "1", "--ds-config", named)...).want(t, done); strings.Count(e.stderr, understood) != 1 || !strings.Contains(e.stderr, "assumed") {
		t.Errorf("run does not tell once what it understood:\n%s", e.stderr)
	}
	for _, asked := range [][]string{args("plan", "--gpus", "2", "--ds-config", named), {"ckpt", "inspect", "--injection-policy-tuple", "self_attn.o_proj,mlp.down_proj", folder}} {
		if e := dsbatch(t, asked...).want(t, done); !strings.Contains(e.stdout, understood) {
			t.Errorf("%s does not tell what it understood:\n%s", asked[0], e.stdout)
		}
	}
	refused(t, badConfig, args("run"), "injection_policy_tuple")
	refused(t, badConfig, args("run", "--ds-config", write(t, "ds.json", `{"injection_policy_tuple": ["self_attn.o_proj"]}`)), "mlp.down_proj")
	refused(t, badConfig, []string{"ckpt", "inspect", "--injection-policy-tuple", "self_attn.o_proj", folder}, "mlp.down_proj")
	if e := dsbatch(t, "ckpt", "inspect", "--injection-policy-tuple", "o_proj", filepath.Join(goldens, "llama")).want(t, done); !strings.Contains(e.stdout, "a family that has a policy") {
		t.Errorf("a known family is not said to be one:\n%s", e.stdout)
	}
}
