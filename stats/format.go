package stats

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// count writes a whole number with thin spaces between the thousands.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	digits := strings.TrimPrefix(s, "-")
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return s[:len(s)-len(strings.TrimPrefix(s, "-"))] + digits
}

// short writes a number in three digits with k, M, G or T.
func short(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "–"
	}
	for _, u := range []struct {
		size float64
		name string
	}{{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(x) >= u.size*0.9995 {
			return digits3(x/u.size) + "\u202f" + u.name
		}
	}
	return digits3(x)
}

// quantity writes a number with a unit: 58.4 GFLOP/s.
func quantity(x float64, unit string) string {
	if s := short(x); strings.Contains(s, "\u202f") {
		return s + unit
	}
	return short(x) + "\u202f" + unit
}

// digits3 writes three digits, without zeros behind the point.
func digits3(x float64) string {
	decimals := 2
	switch a := math.Abs(x); {
	case a >= 99.95:
		decimals = 0
	case a >= 9.995:
		decimals = 1
	case a > 0 && a < 0.1:
		return strconv.FormatFloat(x, 'g', 2, 64)
	}
	s := strconv.FormatFloat(x, 'f', decimals, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// size writes bytes with a binary unit.
func size(n int64) string {
	x, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if math.Abs(x) < 1023.5 {
			break
		}
		x, unit = x/1024, u
	}
	return digits3(x) + "\u202f" + unit
}

// span writes seconds as a person would: 2 h 05 min, 12 min 05 s, 3.2 s, 15 ms.
func span(seconds float64) string {
	switch {
	case seconds < 0 || math.IsNaN(seconds) || math.IsInf(seconds, 0):
		return "–"
	case seconds == 0:
		return "0 s"
	case seconds < 1e-3:
		return digits3(seconds*1e6) + " µs"
	case seconds < 0.9995:
		return digits3(seconds*1e3) + " ms"
	case seconds < 59.95:
		return digits3(seconds) + " s"
	}
	d := time.Duration(math.Round(seconds)) * time.Second
	switch days, h, m, s := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60; {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, h)
	case h > 0:
		return fmt.Sprintf("%d h %02d min", h, m)
	case s == 0:
		return fmt.Sprintf("%d min", m)
	default:
		return fmt.Sprintf("%d min %02d s", m, s)
	}
}

// percent writes a share from 0 to 1.
func percent(x float64) string {
	switch {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return "–"
	case x > 0 && x < 0.001:
		return "< 0.1 %"
	case x < 0.0995:
		return strconv.FormatFloat(100*x, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(100*x, 'f', 0, 64) + " %"
}

// times writes a ratio: 1.03×.
func times(x float64) string { return digits3(x) + "×" }
