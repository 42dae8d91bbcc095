package engine

import "testing"

func TestEvenShareOfCores(t *testing.T) {
	cores := func(from, to int) []byte {
		set := make([]byte, coreSetBytes)
		for core := from; core < to; core++ {
			set[core/8] |= 1 << (core % 8)
		}
		return set
	}
	for _, c := range []struct {
		name string
		sets [][]byte // of each rank
		want []int
	}{
		{"alone", [][]byte{cores(0, 16)}, []int{16}},
		{"four ranks, none bound", [][]byte{cores(0, 16), cores(0, 16), cores(0, 16), cores(0, 16)}, []int{4, 4, 4, 4}},
		{"three ranks, none bound", [][]byte{cores(0, 16), cores(0, 16), cores(0, 16)}, []int{5, 5, 5}},
		{"each bound to a core", [][]byte{cores(0, 1), cores(1, 2)}, []int{1, 1}},
		{"each bound to a socket", [][]byte{cores(0, 32), cores(32, 64)}, []int{32, 32}},
		{"two a socket", [][]byte{cores(0, 8), cores(0, 8), cores(8, 16), cores(8, 16)}, []int{4, 4, 4, 4}},
		{"more ranks than cores", [][]byte{cores(0, 2), cores(0, 2), cores(0, 2)}, []int{1, 1, 1}},
		{"a core shared of three", [][]byte{cores(0, 2), cores(1, 4)}, []int{1, 2}},
		{"the last core that is counted", [][]byte{cores(coreSetBytes*8-1, coreSetBytes*8)}, []int{1}},
		{"none known", [][]byte{cores(0, 0), cores(0, 0)}, []int{1, 1}},
	} {
		var all []byte
		for _, set := range c.sets {
			all = append(all, set...)
		}
		for rank, set := range c.sets {
			if got := evenShare(set, all); got != c.want[rank] {
				t.Errorf("%s: rank %d takes %d cores, want %d", c.name, rank, got, c.want[rank])
			}
		}
	}
}
