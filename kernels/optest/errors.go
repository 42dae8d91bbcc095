package optest

import "github.com/dsbatch/dsbatch/kernels"

// testErrors gives ops tensors of wrong shapes: the first error must stick, and nothing be written after it.
func testErrors(k *kit) {
	for name, wrong := range map[string]func(s kernels.Stream, good, narrow, ids *buffer){
		"add: columns": func(s kernels.Stream, good, narrow, _ *buffer) { s.Add(good.Tensor, narrow.Tensor) },
		"add: type":    func(s kernels.Stream, good, _, ids *buffer) { s.Add(ids.Tensor, good.Tensor) },
		"add: none":    func(s kernels.Stream, good, _, _ *buffer) { s.Add(good.Tensor, kernels.Tensor{}) },
		"write: size":  func(s kernels.Stream, good, _, _ *buffer) { s.Write(good.Tensor, make([]byte, 3)) },
		"read: size":   func(s kernels.Stream, good, _, _ *buffer) { s.Read(make([]byte, 3), good.Tensor) },
		"norm: weight": func(s kernels.Stream, good, narrow, _ *buffer) {
			s.Norm(good.Tensor, good.Tensor, kernels.Tensor{}, kernels.Norm{Weight: narrow.RowRange(0, 1)})
		},
		"select: index": func(s kernels.Stream, good, _, ids *buffer) {
			s.Select(good.Tensor, good.Tensor, ids.Tensor, 0)
		},
	} {
		s, err := k.dev.NewStream()
		if err != nil {
			k.Fatal(err)
		}
		good := k.floats(kernels.F32, 3, 5, make([]float64, 15))
		narrow := k.floats(kernels.F32, 3, 4, make([]float64, 12))
		ids := k.ints(3, 5, make([]int32, 15))
		k.sync()
		wrong(s, good, narrow, ids)
		first := s.Sync()
		if first == nil {
			k.Errorf("%s: no error", name)
			continue
		}
		other := k.floats(kernels.F32, 3, 5, []float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
		k.sync()
		s.Add(good.Tensor, other.Tensor)
		if again := s.Sync(); again == nil || again.Error() != first.Error() {
			k.Errorf("%s: %v, and after it %v", name, first, again)
		}
		k.nearBy(name, k.values(good), make([]float64, 15), 0)
		if err := s.Close(); err != nil {
			k.Error(err)
		}
	}
}
