package cpu

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Level is the instruction set that a device's kernels use. Bits may differ from level to level, never inside one.
type Level uint8

// The levels, weakest first: ranks on mixed CPUs agree on the least of theirs.
//
// VDPBF16PS runs at twice the rate of float32 on AMD's cores and at half of it on Intel's, where AVX512 with widened
// weights is faster and more exact: so a level of its own, which is the best one on AMD only.
const (
	Auto       Level = iota // the best that this machine and this build have
	Reference               // pure Go: all that a build without cgo has
	Generic                 // C for any CPU
	AVX2                    // with FMA and F16C
	AVX512                  // F, BW, DQ, VL; VNNI where the CPU has it
	AVX512BF16              // AVX512 and VDPBF16PS: bf16 weights by pairs with activations rounded to bf16
	AMX                     // tiles of bf16 and int8, over AVX512 with VNNI and BF16
)

var levelNames = [...]string{"auto", "reference", "generic", "avx2", "avx512", "avx512bf16", "amx"}

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

// needs lists what each level takes.
var needs = [...]features{
	Generic:    hasC,
	AVX2:       hasC | hasAVX2,
	AVX512:     hasC | hasAVX512,
	AVX512BF16: hasC | hasAVX512 | hasAVX512BF16,
	AMX:        hasC | hasAVX512 | hasAVX512BF16 | hasVNNI | hasAMX,
}

// levels lists those that can be had, weakest first.
func (f features) levels() []Level {
	var can []Level
	for l, bits := range needs {
		if Level(l) != Auto && f.has(bits) {
			can = append(can, Level(l))
		}
	}
	return can
}

// best is the fastest level.
func (f features) best() Level {
	can := f.levels()
	best := can[len(can)-1]
	if best == AVX512BF16 && !f.has(isAMD) {
		return AVX512
	}
	return best
}

// choose resolves Auto and refuses a level that is not to be had.
func (f features) choose(want Level) (Level, error) {
	if want == Auto {
		return f.best(), nil
	}
	if can := f.levels(); !slices.Contains(can, want) {
		return 0, fmt.Errorf("instruction set %v is not to be had here, where CPU, system and build together have %v", want, can)
	}
	return want, nil
}

// Levels lists the levels that a Device can be made of here, weakest first.
func Levels() []Level { return detect().levels() }

// Best is the level of a Device that is told none: DSBATCH_CPU's, else the best of CPU, system and build.
func Best() (Level, error) {
	l, err := levelNamed(os.Getenv("DSBATCH_CPU"))
	if err != nil {
		return 0, fmt.Errorf("DSBATCH_CPU: %w", err)
	}
	return l, nil
}

// levelNamed is a level that is to be had here; the empty name is that of the best.
func levelNamed(name string) (Level, error) {
	l, err := ParseLevel(name)
	if err != nil {
		return 0, err
	}
	return detect().choose(l)
}
