package model

import "testing"

// TestWhichLayersAreOffloaded: of layers on the GPU (g), large ones come to the host (h) first, evenly apart.
func TestWhichLayersAreOffloaded(t *testing.T) {
	for _, c := range []struct {
		bytes []int64
		count int
		want  string
	}{
		{[]int64{9, 9, 9, 9}, 0, "gggg"}, {[]int64{9, 9, 9, 9}, 1, "gggh"}, {[]int64{9, 9, 9, 9}, 2, "ghgh"}, {[]int64{9, 8, 5, 9}, 9, "hhhh"},
		{[]int64{1, 9, 1, 9, 1, 9}, 2, "ggghgh"}, {[]int64{1, 9, 1, 9, 1, 9}, 3, "ghghgh"}, {[]int64{1, 9, 1, 9, 1, 9}, 4, "ghghhh"}, {nil, 3, ""},
	} {
		got := ""
		for _, is := range offloaded(c.bytes, c.count) {
			got += map[bool]string{false: "g", true: "h"}[is]
		}
		if got != c.want {
			t.Errorf("%d of %v: %q, want %q", c.count, c.bytes, got, c.want)
		}
	}
}
