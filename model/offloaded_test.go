package model

import "testing"

// TestWhichLayersAreOffloaded: large layers first, evenly apart.
func TestWhichLayersAreOffloaded(t *testing.T) {
	for _, c := range []struct {
		bytes []int64
		count int
		want  string
	}{
		{[]int64{9, 9, 9, 9}, 0, "...."}, {[]int64{9, 9, 9, 9}, 1, "...x"}, {[]int64{9, 9, 9, 9}, 2, ".x.x"}, {[]int64{9, 8, 5, 9}, 9, "xxxx"},
		{[]int64{1, 9, 1, 9, 1, 9}, 2, "...x.x"}, {[]int64{1, 9, 1, 9, 1, 9}, 3, ".x.x.x"}, {[]int64{1, 9, 1, 9, 1, 9}, 4, ".x.xxx"}, {nil, 3, ""},
	} {
		got := ""
		for _, is := range offloaded(c.bytes, c.count) {
			got += map[bool]string{false: ".", true: "x"}[is]
		}
		if got != c.want {
			t.Errorf("%d of %v: %q, want %q", c.count, c.bytes, got, c.want)
		}
	}
}
