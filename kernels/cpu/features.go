package cpu

import (
	"fmt"
	"slices"
	"strings"
)

// Level is the instruction set that a device's kernels use. Bits may differ from level to level, never inside one.
type Level uint8

// The levels, weakest first: ranks on mixed CPUs agree on the least of theirs.
const (
	Auto      Level = iota // the best that this machine and this build have
	Reference              // pure Go: all that a build without cgo has
	Generic                // C for any CPU
	AVX2                   // with FMA and F16C
	AVX512                 // F, BW, DQ, VL; VNNI where the CPU has it
	AMX                    // tiles of bf16 and int8, over AVX512 with VNNI and BF16
)

var levelNames = [...]string{"auto", "reference", "generic", "avx2", "avx512", "amx"}

// String is the name that users write and read, as in DSBATCH_CPU=avx2.
func (l Level) String() string { return levelNames[l] }

// ParseLevel reads a level's name; the empty one is Auto.
func ParseLevel(name string) (Level, error) {
	if name == "" {
		return Auto, nil
	}
	i := slices.Index(levelNames[:], strings.ToLower(name))
	if i < 0 {
		return Auto, fmt.Errorf("instruction set %q is unknown; use %s", name, strings.Join(levelNames[:], ", "))
	}
	return Level(i), nil
}

// features is what the CPU, its operating system and this build offer together.
type features uint32

// The bits are those of cpu_features in features.c.
const (
	hasC          features = 1 << iota // the build has the C kernels
	hasAVX2                            // AVX2, FMA, F16C, and the system saves ymm
	hasAVX512                          // F, BW, DQ, VL, and the system saves zmm
	hasVNNI                            // AVX512_VNNI
	hasAVX512BF16                      // AVX512_BF16
	hasAMX                             // tiles, bf16 and int8, and the system granted their state to this process
	isAMD
)

func (f features) has(bits features) bool { return f&bits == bits }

func (f features) best() Level {
	switch {
	case !f.has(hasC):
		return Reference
	case f.has(hasAVX512 | hasVNNI | hasAVX512BF16 | hasAMX):
		return AMX
	case f.has(hasAVX512):
		return AVX512
	case f.has(hasAVX2):
		return AVX2
	}
	return Generic
}

// choose resolves Auto and refuses a level that is not to be had.
func (f features) choose(want Level) (Level, error) {
	best := f.best()
	if want == Auto {
		return best, nil
	}
	if want > best {
		return 0, fmt.Errorf("instruction set %v is not to be had here, where CPU, system and build together have %s",
			want, strings.Join(levelNames[Reference:best+1], ", "))
	}
	return want, nil
}
