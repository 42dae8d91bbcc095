package model_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/ringtest"
	"github.com/dsbatch/dsbatch/model"
)

// openRingDevice is openDevice with rings.
func openRingDevice(t *testing.T) kernels.Device {
	t.Helper()
	d, err := openDevice()
	check(t, err)
	if _, has := d.(kernels.RingDevice); has {
		return d
	}
	return &ringtest.Device{Device: d}
}

// TestSameBitsOffloaded: hidden states, logits and what gates decide have the same bits whether all, some or none of the layers
// have their weights in the host's memory, in every family and in every type of weights, in the first step and in later ones.
func TestSameBitsOffloaded(t *testing.T) {
	for _, name := range slicedModels {
		for _, dtype := range []kernels.DType{kernels.F32, kernels.BF16, kernels.I8} {
			if dtype != kernels.F32 && !slices.Contains([]string{"llama", "olmoe", "deepseek_v3"}, name) {
				continue
			}
			t.Run(fmt.Sprint(name, " ", dtype), func(t *testing.T) {
				var want []result
				for _, o := range []struct{ layers, buffers int }{{}, {1, 0}, {99, 0}, {99, 3}} {
					d := openRingDevice(t)
					c, _, config, err := describe(golden(t, name))
					check(t, err)
					check(t, c.Close())
					options := model.LoadOptions{DType: dtype, Offload: min(o.layers, config.Layers), Buffers: o.buffers}
					r, err := openRunner(t, d, golden(t, name), 64, options)
					check(t, err)
					var got []result
					for step := range 3 {
						got = append(got, r.forward(texts[step:]...))
					}
					for i, y := range got {
						if want != nil && !sameResult(y, want[i]) {
							t.Errorf("%+v: step %d has other bits than with all layers on the device", o, i)
						}
					}
					if want == nil {
						want = got
					}
					device, host := r.model.Offloaded(options.Offload, o.buffers)
					if all := r.model.Bytes(); device < all-host || (host > 0) != (o.layers > 0) || o.layers == 0 && device != all {
						t.Errorf("%+v: %d bytes on the device and %d on the host, of %d", o, device, host, all)
					}
					if brought := r.model.Brought(); (brought.Bytes > 0) != (o.layers > 0) {
						t.Errorf("%+v: %+v was brought", o, brought)
					}
				}
			})
		}
	}
}

func sameResult(a, b result) bool {
	same := slices.Equal(a.logits, b.logits) && slices.Equal(a.pooled, b.pooled) && len(a.hidden) == len(b.hidden) && len(a.routed) == len(b.routed)
	for i := range a.hidden {
		same = same && slices.Equal(a.hidden[i], b.hidden[i])
	}
	for i := range a.routed {
		same = same && slices.Equal(a.routed[i].expert, b.routed[i].expert) && slices.Equal(a.routed[i].weight, b.routed[i].weight)
	}
	return same
}

// TestOffloadRefused: what a device cannot do, or has no memory for, is an error, and nothing is left open.
func TestOffloadRefused(t *testing.T) {
	device, err := openDevice()
	check(t, err)
	full := &ringtest.Device{Device: device, Refuse: errors.New("no memory that could be pinned")}
	if _, err := openRunner(t, full, golden(t, "llama"), 64, model.LoadOptions{Offload: 2}); err == nil || !strings.Contains(err.Error(), "no memory that could be pinned") {
		t.Errorf("%v", err)
	}
	if full.Open() != 0 {
		t.Errorf("%d rings are left", full.Open())
	}
	if _, has := device.(kernels.RingDevice); has {
		return
	}
	plain, err := openDevice()
	check(t, err)
	if _, err := openRunner(t, plain, golden(t, "llama"), 64, model.LoadOptions{Offload: 2}); err == nil || !strings.Contains(err.Error(), "its own memory") {
		t.Errorf("%v", err)
	}
}
