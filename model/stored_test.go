package model_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/store"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// storedModels are one of each kind of file, of names, of row orders of query_key_value and of families.
var storedModels = []string{"ds-moe-hoisted", "ds-moe-old-files", "megatron-pp2", "megatron-v0-mp2", "megatron-v1-mp2", "megatron-v2-mp4",
	"gpt2", "gpt_neox", "gptj", "opt", "llama", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "austen-prmoe"}

func sourceOf(t *testing.T, name string) string {
	if name == "austen-prmoe" {
		return trainedModel(t, name)
	}
	return golden(t, name)
}

// rewritten is a folder that write has made of the checkpoint in dir.
func rewritten(t *testing.T, dir string, write func(c *ckpt.Checkpoint, to string) error) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "out")
	c, _, _, err := describe(dir)
	check(t, err)
	check(t, write(c, to))
	check(t, c.Close())
	return to
}

func converted(t *testing.T, dir string, d kernels.DType) string {
	t.Helper()
	return rewritten(t, dir, func(c *ckpt.Checkpoint, to string) error { return store.Convert(t.Context(), c, to, d) })
}

func resharded(t *testing.T, dir string, tp, ep int) string {
	t.Helper()
	return rewritten(t, dir, func(c *ckpt.Checkpoint, to string) error { return store.Reshard(t.Context(), c, to, tp, ep) })
}

// TestSameBitsFromEveryForm: a model gives logits of the same bits as the files that it was trained into, as safetensors
// and as slices, on the layout that these were cut for and on others.
func TestSameBitsFromEveryForm(t *testing.T) {
	models := storedModels
	if device, err := openRankDevice(0); err == nil {
		if device.Arch() == "cpu/reference" { // slow, and the same files
			models = []string{"ds-moe-hoisted", "megatron-v0-mp2", "gpt2", "qwen3_moe"}
		}
		defer func() { check(t, device.Close()) }()
	}
	for _, name := range models {
		t.Run(name, func(t *testing.T) {
			dir := sourceOf(t, name)
			whole := converted(t, dir, 0)
			_, _, config, err := describe(whole)
			check(t, err)
			eps := []int{1}
			if slices.ContainsFunc(config.MoE, func(m model.MoE) bool { return m.Gate.Experts > 0 }) {
				eps = []int{1, 2}
			}
			forms := map[string]string{"converted": whole, "converted again": converted(t, whole, 0)}
			for _, tp := range []int{1, 2, 4} {
				for _, ep := range eps {
					forms[fmt.Sprintf("in %d slices, %d parts", tp, ep)] = resharded(t, dir, tp, ep)
				}
			}
			forms["whole again"] = converted(t, forms["in 4 slices, 1 parts"], 0)
			forms["cut anew"] = resharded(t, forms["in 2 slices, 1 parts"], 4, 1)
			for _, y := range []layout{{}, {tp: 2, ep: 1}, {tp: 4, ep: eps[len(eps)-1]}} {
				want, err := y.run(t, dir, texts)
				check(t, err)
				for form, path := range forms {
					got, err := y.run(t, path, texts)
					check(t, err)
					t.Run(form, func(t *testing.T) { compareBits(t, y, got.logits, want.logits) })
				}
			}
		})
	}
}

// TestNarrowedIsWhatDTypeMakes: of a checkpoint that was narrowed, a run of that type makes the bits that it makes of the
// original.
func TestNarrowedIsWhatDTypeMakes(t *testing.T) {
	for _, name := range []string{"gpt2", "qwen3_moe", "megatron-v0-mp2"} {
		for _, d := range []kernels.DType{kernels.BF16, kernels.F16} {
			dir := sourceOf(t, name)
			narrow := converted(t, dir, d)
			c, err := ckpt.Open(narrow, ckpt.Options{})
			check(t, err)
			before, _, _, err := describe(dir)
			check(t, err)
			var was, is int64
			for _, n := range c.Names() {
				x, _ := c.Tensor(n)
				o, _ := before.Tensor(n)
				was, is = was+o.Size(), is+x.Size()
			}
			if float64(is) > 0.8*float64(was) {
				t.Errorf("%s as %v: %d bytes of %d", name, d, is, was)
			}
			check(t, before.Close())
			check(t, c.Close())
			for _, y := range []layout{{dtype: d}, {dtype: d, tp: 2, ep: 1}} {
				want, err := y.run(t, dir, texts)
				check(t, err)
				got, err := y.run(t, narrow, texts)
				check(t, err)
				compareBits(t, y, got.logits, want.logits)
			}
		}
	}
}

// TestRankReadsItsOwnFiles: with all other files of weights cut to nothing behind its back, a rank of the layout that a
// folder was saved for loads; with its own cut, it does not.
func TestRankReadsItsOwnFiles(t *testing.T) {
	for name, own := range map[string][]string{
		"ds-moe-hoisted": {"tp_01", "ep_01"}, "qwen3_moe": {"tp_01", "ep_01"}, "gpt2": {"tp_01"}, "megatron-v0-mp2": {"tp_01"},
	} {
		for _, lacks := range append([]string{""}, own...) {
			ep := len(own)
			dir := resharded(t, sourceOf(t, name), 2, ep)
			c, policy, config, err := describe(dir)
			check(t, err)
			for _, f := range c.Files() {
				stem := f.Name[:len(f.Name)-len(".safetensors")]
				if stem == lacks || stem != "non-tp" && !slices.Contains(own, stem) {
					check(t, os.Truncate(filepath.Join(dir, f.Name), 0))
				}
			}
			device, err := openDevice()
			check(t, err)
			m, err := model.Load(t.Context(), c, policy, config, device, model.LoadOptions{TP: &comm.Group{World: two{mpi.Alone()}},
				Experts: func(int) (*moe.Exchange, error) { return &moe.Exchange{Rank: 1, Ranks: 2}, nil }})
			switch {
			case lacks == "":
				check(t, err)
				m.Close()
			case err == nil:
				t.Errorf("%s: loaded without %s", name, lacks)
				m.Close()
			}
			check(t, device.Close())
			check(t, c.Close())
		}
	}
}

// TestQuantizedIsWhatInt8Makes: from a checkpoint in 8 bits, whole, as slices or pieced together again, come the bits that
// int8 makes of the original at the start; and over tp, where each slice of a row has a scale of its own then, one set of
// bits whatever the files are.
func TestQuantizedIsWhatInt8Makes(t *testing.T) {
	models := []string{"gpt2", "qwen2_moe", "megatron-v0-mp2", "gpt_neox", "mixtral", "gpt_oss", "ds-moe-hoisted", "austen-prmoe"}
	if device, err := openRankDevice(0); err == nil {
		if device.Arch() == "cpu/reference" { // slow
			models = models[:3]
		}
		check(t, device.Close())
	}
	for _, name := range models {
		t.Run(name, func(t *testing.T) {
			dir := sourceOf(t, name)
			small := rewritten(t, dir, func(c *ckpt.Checkpoint, to string) error { return store.Quantize(t.Context(), c, to) })
			forms := []string{small, converted(t, small, 0), resharded(t, small, 1, 1), resharded(t, small, 2, 1)}
			forms = append(forms, converted(t, forms[3], 0))
			for _, y := range []layout{{dtype: kernels.I8}, {dtype: kernels.I8, pp: 2, piece: 4}, {dtype: kernels.I8, tp: 2, ep: 1}} {
				from := dir
				if y.tp > 1 {
					from = small
				}
				want, err := y.run(t, from, texts)
				check(t, err)
				for _, form := range forms {
					got, err := y.run(t, form, texts)
					check(t, err)
					compareBits(t, y, got.logits, want.logits)
				}
			}
			wide := converted(t, small, kernels.F32) // the same numbers in another form
			want, err := layout{}.run(t, small, texts)
			check(t, err)
			got, err := layout{}.run(t, wide, texts)
			check(t, err)
			compareBits(t, layout{}, got.logits, want.logits)
			check(t, errors.Join(
				refusedBy(dir, wide, func(c *ckpt.Checkpoint, to string) error { return store.Quantize(t.Context(), c, to) }, ckpt.ErrExists),
				refusedBy(small, filepath.Join(t.TempDir(), "out"), func(c *ckpt.Checkpoint, to string) error { return store.Quantize(t.Context(), c, to) }, ckpt.ErrUnsupported)))
		})
	}
}

// refusedBy is nil if rewriting the checkpoint in dir at to is refused so.
func refusedBy(dir, to string, write func(c *ckpt.Checkpoint, to string) error, want error) error {
	c, _, _, err := describe(dir)
	if err == nil {
		if err = write(c, to); errors.Is(err, want) {
			err = nil
		} else {
			err = fmt.Errorf("%s to %s: %v, want %w", dir, to, err, want) //nolint:errorlint // either may be nil
		}
		err = errors.Join(err, c.Close())
	}
	return err
}
