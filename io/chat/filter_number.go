package chat

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// toInt is int(default, base).
func toInt(r *render, v value, a *arguments) value {
	b := a.bind("int", "default=", "base=")
	base, other := int64(10), value(int64(0))
	if b[0] != nil {
		other = b[0]
	}
	if n, ok := asInt(b[1]); ok {
		base = n
	}
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	if s, ok := asText(v); ok {
		if n := readInt(s, int(base)); n != nil {
			return n
		}
		f, ok := readFloat(s)
		if !ok || math.IsInf(f, 0) || math.IsNaN(f) {
			return other
		}
		return truncated(f)
	}
	switch x, f, kind := number(v); kind {
	case 'i':
		return whole(x)
	case 'f':
		if !math.IsInf(f, 0) && !math.IsNaN(f) {
			return truncated(f)
		}
	}
	return other
}

func truncated(f float64) value {
	x, _ := big.NewFloat(math.Trunc(f)).Int(nil)
	return whole(x)
}

// readInt is Python's int(s, base), nil where it fails.
func readInt(s string, base int) value {
	s = strings.TrimFunc(s, isSpace)
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	prefixed := false
	if len(s) > 2 && s[0] == '0' {
		named := map[byte]int{'b': 2, 'B': 2, 'o': 8, 'O': 8, 'x': 16, 'X': 16}[s[1]]
		if named != 0 && (base == 0 || base == named) {
			base, s, prefixed = named, s[2:], true
		}
	}
	if base == 0 {
		if base = 10; len(s) > 1 && s[0] == '0' && strings.Trim(s, "0_") != "" {
			return nil
		}
	}
	s = strings.TrimPrefix(s, map[bool]string{true: "_"}[prefixed])
	if s == "" || s[0] == '_' || s[0] == '-' || s[0] == '+' || s[len(s)-1] == '_' || strings.Contains(s, "__") || base < 2 || base > 36 {
		return nil
	}
	n, ok := parseInt(strings.TrimPrefix(sign, "+")+strings.ReplaceAll(s, "_", ""), base)
	if !ok {
		return nil
	}
	return n
}

// readFloat is Python's float(s).
func readFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if strings.ContainsAny(s, "xXpP") || strings.Contains(s, "__") || strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	return f, err == nil || math.IsInf(f, 0) && s != ""
}

func toFloatFilter(r *render, v value, a *arguments) value {
	b := a.bind("float", "default=")
	other := value(0.0)
	if b[0] != nil {
		other = b[0]
	}
	return r.floatOr(v, other)
}

func (r *render) floatOr(v, other value) value {
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	if s, ok := asText(v); ok {
		if f, ok := readFloat(s); ok {
			return f
		}
		return other
	}
	switch x, f, kind := number(v); kind {
	case 'i':
		return toFloat(x)
	case 'f':
		return f
	}
	return other
}

// float is float(v), an error where there is none.
func (r *render) float(v, other value) float64 {
	f, ok := r.floatOr(v, other).(float64)
	if !ok {
		fail("ValueError", "could not convert %s to float", typeName(v))
	}
	return f
}

// round is round(precision, method).
func round(r *render, v value, a *arguments) value {
	b := a.bind("round", "precision=", "method=")
	precision, method := int64(0), "common"
	if b[0] != nil {
		n, ok := asInt(b[0])
		if !ok {
			typeError("'%s' object cannot be interpreted as an integer", typeName(b[0]))
		}
		precision = min(max(n, -400), 400)
	}
	if b[1] != nil {
		method = textArg("round", b[1])
	}
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	x, f, kind := number(v)
	if kind == 0 {
		typeError("type %s doesn't define __round__ method", typeName(v))
	}
	switch method {
	case "common":
		if kind == 'i' {
			return roundedInt(x, precision)
		}
		return roundedFloat(f, int(precision))
	case "ceil", "floor":
		if kind == 'i' {
			f = toFloat(x)
		}
		scale := math.Pow(10, float64(precision))
		if method == "ceil" {
			return math.Ceil(f*scale) / scale
		}
		return math.Floor(f*scale) / scale
	}
	fail("FilterArgumentError", "method must be common, ceil or floor")
	return nil
}

// roundedFloat rounds half to even, by the exact decimal value.
func roundedFloat(f float64, precision int) value {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return f
	}
	if precision >= 0 {
		out, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'f', precision, 64), 64)
		return out
	}
	scale := math.Pow(10, float64(-precision))
	return math.RoundToEven(f/scale) * scale
}

// roundedInt rounds to tens, hundreds and so on, half to even.
func roundedInt(x *big.Int, precision int64) value {
	if precision >= 0 {
		return whole(x)
	}
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(-precision), nil)
	down, rest := new(big.Int).DivMod(x, scale, new(big.Int))
	if c := rest.Lsh(rest, 1).Cmp(scale); c > 0 || c == 0 && down.Bit(0) == 1 {
		down.Add(down, big.NewInt(1))
	}
	return whole(down.Mul(down, scale))
}
