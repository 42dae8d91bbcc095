package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes, written as 16GiB, 1.5GiB, 512MB or 1048576. K, M, G and T alone are binary, as Slurm has them.
type Bytes int64

var byteUnits = []struct {
	name string
	size float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3},
	{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"B", 1},
}

// parseBytes reads a size, without regard to letter case or space between number and unit.
func parseBytes(text string) (Bytes, error) {
	number, unit := strings.TrimSpace(text), 1.0
	for _, u := range byteUnits {
		if len(number) > len(u.name) && strings.EqualFold(number[len(number)-len(u.name):], u.name) {
			number, unit = strings.TrimSpace(number[:len(number)-len(u.name)]), u.size
			break
		}
	}
	x, err := strconv.ParseFloat(number, 64)
	if err != nil || !(x >= 0) || x*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size; write it as 16GiB, 512MB or 1048576", text)
	}
	return Bytes(x * unit), nil
}

// String writes the largest binary unit that keeps the size exact.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if size := Bytes(u.size); b >= size && b%size == 0 {
			return strconv.FormatInt(int64(b/size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// About is the size in three digits for people: 16.1 MiB.
func (b Bytes) About() string {
	v, unit := float64(b), 0
	for v >= 999.5 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.3g %s", v, [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}

// parseDuration reads 90s, 2m, 1h30m or a bare number of seconds.
func parseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(seconds) < 1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time; write it as 90s, 2m or 1h30m", text)
	}
	return d, nil
}

// shortDuration drops the zero units that Duration.String leaves at the end: 2m for 2m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// DType is the type of a model's weights. The empty one is the checkpoint's own.
type DType string

// The dtypes that weights can have.
const (
	FP32 DType = "fp32"
	BF16 DType = "bf16"
	FP16 DType = "fp16"
	INT8 DType = "int8" // group-wise; activations stay in floating point
)

// ParseDType accepts every spelling of DeepSpeed's documentation and of DeepSpeed's DtypeEnum, and "auto" for the checkpoint's own.
func ParseDType(text string) (DType, error) {
	switch strings.TrimPrefix(strings.ToLower(text), "torch.") {
	case "auto":
		return "", nil
	case "fp32", "float32", "float":
		return FP32, nil
	case "bf16", "bfloat16", "bfloat":
		return BF16, nil
	case "fp16", "float16", "half":
		return FP16, nil
	case "int8":
		return INT8, nil
	}
	return "", fmt.Errorf("%q is not a dtype; use fp32, bf16, fp16, int8 or auto (the checkpoint's own)", text)
}

// interval is a range of numbers in the notation of mathematics: "[1, 64]", "(0, 1]", "[0, )" without an upper end.
type interval string

var errInterval = errors.New("not an interval")

// bounds returns the ends and whether each belongs to the range. The table is written by us, and a test parses it.
func (v interval) bounds() (lo, hi float64, withLo, withHi bool, err error) {
	a, b, ok := strings.Cut(string(v), ",")
	if !ok || len(a) < 2 || len(b) < 1 {
		return 0, 0, false, false, errInterval
	}
	withLo, withHi, hi = a[0] == '[', b[len(b)-1] == ']', math.Inf(1)
	if lo, err = strconv.ParseFloat(a[1:], 64); err != nil {
		return 0, 0, false, false, errInterval
	}
	if end := strings.TrimSpace(b[:len(b)-1]); end != "" {
		if hi, err = strconv.ParseFloat(end, 64); err != nil {
			return 0, 0, false, false, errInterval
		}
	}
	return lo, hi, withLo, withHi, nil
}

func (v interval) holds(x float64) bool {
	lo, hi, withLo, withHi, err := v.bounds()
	return err == nil && (x > lo || withLo && x == lo) && (x < hi || withHi && x == hi)
}

// words says the range in English: "at least 1", "above 0, at most 1".
func (v interval) words() string {
	lo, hi, withLo, withHi, err := v.bounds()
	if err != nil {
		return string(v)
	}
	text := "above "
	if withLo {
		text = "at least "
	}
	text += strconv.FormatFloat(lo, 'f', -1, 64)
	switch {
	case math.IsInf(hi, 1):
		return text
	case withHi:
		return text + ", at most " + strconv.FormatFloat(hi, 'f', -1, 64)
	}
	return text + ", below " + strconv.FormatFloat(hi, 'f', -1, 64)
}
