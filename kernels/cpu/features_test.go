package cpu

import (
	"strings"
	"testing"
)

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		has    features
		levels string
		best   Level
	}{
		{0, "[reference]", Reference},
		{hasC, "[reference generic]", Generic},
		{hasC | hasAVX2, "[reference generic avx2]", AVX2},
		{hasC | hasAVX2 | hasAVX512 | hasVNNI, "[reference generic avx2 avx512]", AVX512},
		{hasC | hasAVX2 | hasAVX512 | hasVNNI | hasAVX512BF16, "[reference generic avx2 avx512 avx512bf16]", AVX512},
		{hasC | hasAVX2 | hasAVX512 | hasVNNI | hasAVX512BF16 | isAMD, "[reference generic avx2 avx512 avx512bf16]", AVX512BF16},
		{hasC | hasAVX2 | hasAVX512 | hasVNNI | hasAVX512BF16 | hasAMX, "[reference generic avx2 avx512 avx512bf16 amx]", AMX},
		{hasC | hasAVX2 | hasAVX512 | hasAMX, "[reference generic avx2 avx512]", AVX512},
	} {
		names := []string{}
		for _, l := range c.has.levels() {
			names = append(names, l.String())
		}
		if got := "[" + strings.Join(names, " ") + "]"; got != c.levels || c.has.best() != c.best {
			t.Errorf("features %b: %s, best %v; want %s, best %v", c.has, got, c.has.best(), c.levels, c.best)
		}
	}
}

func TestLevelNames(t *testing.T) {
	for l := Auto; l <= AMX; l++ {
		if got, err := ParseLevel(strings.ToUpper(l.String())); got != l || err != nil {
			t.Errorf("%v: %v, %v", l, got, err)
		}
	}
	if l, err := ParseLevel(""); l != Auto || err != nil {
		t.Errorf("no name: %v, %v", l, err)
	}
	_, err := ParseLevel("sse9")
	if err == nil || !strings.Contains(err.Error(), "avx512bf16") {
		t.Errorf("unknown name: %v", err)
	}
	_, err = (hasC | hasAVX2).choose(AMX)
	if err == nil || !strings.Contains(err.Error(), "amx") || !strings.Contains(err.Error(), "[reference generic avx2]") {
		t.Errorf("level that is not there: %v", err)
	}
}
