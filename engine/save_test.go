package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestSavedByAStart: ranks save the model as they hold it; a second start leaves that as it is, from it a start finds the
// same model, and another model's folder is refused before anything is written.
func TestSavedByAStart(t *testing.T) {
	to := filepath.Join(t.TempDir(), "a", "saved")
	start := func(model string, kwargs map[string]any) error {
		return mpi.Run(2, func(w mpi.World) error {
			all := map[string]any{"mp_size": 2, "ep_size": 2}
			for k, v := range kwargs {
				all[k] = v
			}
			e, err := InitInferenceOver(t.Context(), w, model, nil, all)
			if err != nil {
				return err
			}
			return e.Close()
		})
	}
	save := map[string]any{"save_mp_checkpoint_path": to}
	if err := start(bundled, save); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"non-tp", "tp_00", "tp_01", "ep_00", "ep_01"} {
		if _, err := os.Stat(filepath.Join(to, file+".safetensors")); err != nil {
			t.Error(err)
		}
	}
	index := filepath.Join(to, "ds_inference_config.json")
	before, err := os.Stat(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := start(bundled, map[string]any{"checkpoint_config": map[string]any{"save_mp_checkpoint_path": to}}); err != nil {
		t.Errorf("a second start: %v", err)
	}
	if after, err := os.Stat(index); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("a second start wrote it anew (%v)", err)
	}
	for _, model := range []string{to, index} {
		if err := start(model, map[string]any{"training_mp_size": 2}); err != nil {
			t.Errorf("from %s: %v", model, err)
		}
	}
	if err := start(bundled, map[string]any{"save_mp_checkpoint_path": to, "ep_size": 1}); !errors.Is(err, ErrRefused) || !errors.Is(err, ckpt.ErrExists) || !strings.Contains(err.Error(), "nothing is overwritten") {
		t.Errorf("the same model in other parts over it: %v", err)
	}
	if left, err := filepath.Glob(filepath.Dir(to) + "/*"); err != nil || len(left) != 1 {
		t.Errorf("there are %v (%v)", left, err)
	}
}
