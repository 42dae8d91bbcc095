package store

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
)

const goldens = "../testdata/golden"

// copied is a copy of a golden model.
func copied(t *testing.T, name string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(filepath.Join(goldens, name))); err != nil {
		t.Fatal(err)
	}
	return to
}

// change rewrites a file.
func change(t *testing.T, path string, by func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = os.WriteFile(path, by(b), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// at is where a tensor's bytes begin in a safetensors file.
func at(t *testing.T, b []byte, tensor string) int {
	t.Helper()
	end := 8 + binary.LittleEndian.Uint64(b)
	var header map[string]struct {
		Offsets []int `json:"data_offsets"`
	}
	if err := json.Unmarshal(b[8:end], &header); err != nil {
		t.Fatal(err)
	}
	return int(end) + header[tensor].Offsets[0]
}

// TestVerifyFinds: each fault in a sentence of its own that names file and tensor, all of them, and nothing in what is whole.
func TestVerifyFinds(t *testing.T) {
	const norm, expert = "model.norm.weight", "model.layers.1.block_sparse_moe.experts.3.w1.weight"
	flip := func(file string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, file), func(b []byte) []byte {
				z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
				if err != nil {
					t.Fatal(err)
				}
				records := slices.DeleteFunc(z.File, func(e *zip.File) bool { return !strings.Contains(e.Name, "/data/") })
				largest := slices.MaxFunc(records, func(a, b *zip.File) int { return int(a.UncompressedSize64) - int(b.UncompressedSize64) })
				begin, err := largest.DataOffset()
				if err != nil {
					t.Fatal(err)
				}
				b[begin+int64(largest.UncompressedSize64)/2] ^= 1
				return b
			})
		}
	}
	config := func(old, now string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "config.json"), func(b []byte) []byte {
				if !bytes.Contains(b, []byte(old)) {
					t.Fatalf("the config has no %s", old)
				}
				return bytes.Replace(b, []byte(old), []byte(now), 1)
			})
		}
	}
	for name, c := range map[string]struct {
		golden string
		spoil  func(t *testing.T, dir string)
		faults [][]string // words of each
	}{
		"whole, Hugging Face": {"mixtral", nil, nil}, "whole, GPT-2": {"gpt2", nil, nil}, "whole, DeepSpeed": {"ds-moe-old-files", nil, nil},
		"whole, Megatron": {"megatron-pp2", nil, nil},
		"numbers that are none": {"mixtral", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "model.safetensors"), func(b []byte) []byte {
				binary.LittleEndian.PutUint32(b[at(t, b, norm)+4:], 0x7fc00000)
				binary.LittleEndian.PutUint32(b[at(t, b, expert):], 0xffffffff)
				binary.LittleEndian.PutUint32(b[at(t, b, expert)+40:], 0xff800000)
				return b
			})
		}, [][]string{{"model.safetensors", expert, "1 NaN and 1 infinities"}, {"model.safetensors", norm, "1 NaN and 0 inf"}}},
		"a bit of a dense file": {"ds-moe-hoisted", flip("global_step10/mp_rank_00_model_states.pt"),
			[][]string{{"mp_rank_00_model_states.pt", "record", "checksum"}}},
		"a bit of an expert": {"ds-moe-hoisted", flip("global_step10/layer_1_expert_2_mp_rank_00_model_states.pt"),
			[][]string{{"layer_1_expert_2", "checksum"}}},
		"a bit of a rank": {"megatron-v2-mp4", flip("iter_0000030/mp_rank_02/model_optim_rng.pt"), [][]string{{"mp_rank_02", "checksum"}}},
		"two names": {"mixtral", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "model.safetensors"), func(b []byte) []byte {
				b = bytes.Replace(b, []byte(norm), []byte("model.worm.weight"), 1)
				return bytes.Replace(b, []byte(expert), []byte(strings.Replace(expert, "w1", "w7", 1)), 1)
			})
		}, [][]string{{norm, "missing"}, {expert, "missing"}, {"no part of the model", ": 2,"}}},
		"widths": {"llama", config(`"intermediate_size": 56`, `"intermediate_size": 80`), [][]string{{"layers.0", "gate_proj"}, {"layers.0", "up_proj"}, {"layers.0", "down_proj"}, {"layers.1", "gate_proj"}, {"layers.1", "up_proj"}, {"layers.1", "down_proj"},
			{"layers.2", "gate_proj"}, {"layers.2", "up_proj"}, {"layers.2", "down_proj"}}},
		"no config": {"llama", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "config.json"), func([]byte) []byte { return []byte("{") })
		}, [][]string{{"config.json"}}},
		"two files": {"megatron-v2-mp4", func(t *testing.T, dir string) {
			for _, rank := range []string{"mp_rank_01", "mp_rank_03"} {
				change(t, filepath.Join(dir, "iter_0000030", rank, "model_optim_rng.pt"), func(b []byte) []byte { return b[:len(b)/2] })
			}
		}, [][]string{{"mp_rank_01", "cut short"}, {"mp_rank_03", "cut short"}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, c.golden)
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			r, err := Verify(t.Context(), dir, ckpt.Options{}, nil)
			if err != nil || len(r.Faults) != len(c.faults) {
				t.Fatalf("%v; %d faults, want %d: %v", err, len(r.Faults), len(c.faults), errors.Join(r.Faults...))
			}
			for _, words := range c.faults {
				found := false
				for _, fault := range r.Faults {
					all := strings.Contains(fault.Error(), dir)
					for _, w := range words {
						all = all && strings.Contains(fault.Error(), w)
					}
					found = found || all
				}
				if !found {
					t.Errorf("no fault says %q: %v", words, errors.Join(r.Faults...))
				}
			}
		})
	}
}

// TestVerifyOfNothing: what is no checkpoint is an error, not a fault; a family that nothing is known of is read all the same.
func TestVerifyOfNothing(t *testing.T) {
	if _, err := Verify(t.Context(), filepath.Join(t.TempDir(), "x"), ckpt.Options{}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such folder: %v", err)
	}
	if _, err := Verify(t.Context(), t.TempDir(), ckpt.Options{}, nil); !errors.Is(err, ckpt.ErrUnknown) {
		t.Errorf("an empty folder: %v", err)
	}
	dir := copied(t, "llama")
	change(t, filepath.Join(dir, "config.json"), func(b []byte) []byte {
		return bytes.Replace(b, []byte("LlamaForCausalLM"), []byte("BananaForCausalLM"), 1)
	})
	r, err := Verify(t.Context(), dir, ckpt.Options{}, nil)
	if err != nil || r.Unknown == nil || !strings.Contains(r.Unknown.Error(), "Banana") || len(r.Faults) > 0 || r.Bytes == 0 {
		t.Errorf("an unknown family: %+v, %v", r, err)
	}
}

// TestLayoutsThatCannotBe are refused with those that can.
func TestLayoutsThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		golden string
		tp, ep int
		says   []string
	}{
		"experts that do not divide": {"ds-moe-hoisted", 1, 4, []string{"2 experts", "4 ranks", "use 1, 2"}},
		"no experts":                 {"llama", 1, 2, []string{"no experts"}},
		"more slices than heads":     {"megatron-pp2", 64, 1, []string{"tp 64"}},
	} {
		c0, err := ckpt.Open(filepath.Join(goldens, c.golden), ckpt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = Reshard(t.Context(), c0, filepath.Join(t.TempDir(), "out"), c.tp, c.ep)
		for _, w := range c.says {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", name, err, w)
			}
		}
		if err := c0.Close(); err != nil {
			t.Error(err)
		}
	}
}
