package chat

import (
	"math"
	"math/big"
	"strings"
)

// number is a value as a number: one of the two, both nil for anything else.
func number(v value) (whole *big.Int, x float64, kind byte) {
	switch v := v.(type) {
	case *big.Int:
		return v, 0, 'i'
	case float64:
		return nil, v, 'f'
	}
	if n, ok := asInt(v); ok {
		return big.NewInt(n), 0, 'i'
	}
	return nil, 0, 0
}

// toFloat is an integer as a float, as far as it fits.
func toFloat(x *big.Int) float64 {
	f, _ := new(big.Float).SetInt(x).Float64()
	if math.IsInf(f, 0) {
		fail("OverflowError", "int too large to convert to float")
	}
	return f
}

func (r *render) unary(minus bool, v value) value {
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	x, f, kind := number(v)
	switch {
	case kind == 'i' && minus:
		return whole(new(big.Int).Neg(x))
	case kind == 'i':
		return whole(x)
	case kind == 'f' && minus:
		return -f
	case kind == 'f':
		return f
	}
	typeError("bad operand type for unary %s: '%s'", map[bool]string{true: "-", false: "+"}[minus], typeName(v))
	return nil
}

// binary is one of + - * / // % **.
func (r *render) binary(op string, left, right value) value {
	if s, ok := asText(left); ok && op == "%" {
		return r.percent(s, right) // also of what is not defined, which %s prints as nothing
	}
	for _, v := range []value{left, right} {
		if u, ok := v.(*undefined); ok {
			panic(u.fault())
		}
	}
	if a, ok := left.(int64); ok {
		if b, ok := right.(int64); ok {
			if v := small(op, a, b); v != nil {
				return v
			}
		}
	}
	a, x, kindLeft := number(left)
	b, y, kindRight := number(right)
	switch {
	case kindLeft == 'i' && kindRight == 'i':
		return r.integers(op, a, b)
	case kindLeft != 0 && kindRight != 0:
		if kindLeft == 'i' {
			x = toFloat(a)
		}
		if kindRight == 'i' {
			y = toFloat(b)
		}
		return floats(op, x, y)
	}
	switch op {
	case "+":
		return r.add(left, right)
	case "*":
		if v := r.repeated(left, right); v != nil {
			return v
		}
		if v := r.repeated(right, left); v != nil {
			return v
		}
	}
	typeError("unsupported operand type(s) for %s: '%s' and '%s'", map[bool]string{true: "** or pow()", false: op}[op == "**"],
		typeName(left), typeName(right))
	return nil
}

// small does what cannot overflow; nil for the rest.
func small(op string, a, b int64) value {
	if a != int64(int32(a)) || b != int64(int32(b)) {
		return nil
	}
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	}
	return nil
}

func (r *render) integers(op string, a, b *big.Int) value {
	r.look(a.BitLen()/8 + b.BitLen()/8)
	out := new(big.Int)
	switch op {
	case "+":
		out.Add(a, b)
	case "-":
		out.Sub(a, b)
	case "*":
		out.Mul(a, b)
	case "**":
		return r.power(a, b)
	default:
		if b.Sign() == 0 {
			fail("ZeroDivisionError", "%s", map[string]string{"/": "division by zero", "//": "integer division or modulo by zero", "%": "integer modulo by zero"}[op])
		}
		if op == "/" {
			f, _ := new(big.Rat).SetFrac(a, b).Float64()
			if math.IsInf(f, 0) {
				fail("OverflowError", "integer division result too large for a float")
			}
			return f
		}
		rest := new(big.Int)
		out.QuoRem(a, b, rest)
		if rest.Sign() != 0 && rest.Sign() != b.Sign() { // Python rounds down
			out.Sub(out, big.NewInt(1))
			rest.Add(rest, b)
		}
		if op == "%" {
			out = rest
		}
	}
	r.sized(out.BitLen())
	return whole(out)
}

// sized refuses an integer that nobody could print.
func (r *render) sized(bits int) {
	if bits > maxDigits*10/3 {
		fail("LimitError", "an integer has more than %d digits", maxDigits)
	}
}

func (r *render) power(a, b *big.Int) value {
	if b.Sign() < 0 {
		if a.Sign() == 0 {
			fail("ZeroDivisionError", "0.0 cannot be raised to a negative power")
		}
		return math.Pow(toFloat(a), toFloat(b))
	}
	switch bits := a.BitLen(); {
	case bits > 1:
		if !b.IsInt64() || b.Int64() > maxDigits*4 {
			r.sized(math.MaxInt)
		}
		r.sized((bits - 1) * int(b.Int64()))
	case a.Sign() < 0 && b.Bit(0) == 1:
		return int64(-1)
	case a.Sign() == 0 && b.Sign() != 0:
		return int64(0)
	default: // of 1 and -1, or anything to the power 0
		return int64(1)
	}
	return whole(new(big.Int).Exp(a, b, nil))
}

func floats(op string, x, y float64) value {
	if y == 0 && (op == "/" || op == "//" || op == "%") {
		fail("ZeroDivisionError", "%s", map[string]string{"/": "float division by zero", "//": "float floor division by zero", "%": "float modulo"}[op])
	}
	switch op {
	case "+":
		return x + y
	case "-":
		return x - y
	case "*":
		return x * y
	case "/":
		return x / y
	case "**":
		out := math.Pow(x, y)
		switch {
		case x == 0 && y < 0:
			fail("ZeroDivisionError", "0.0 cannot be raised to a negative power")
		case math.IsNaN(out) && !math.IsNaN(x) && !math.IsNaN(y):
			typeError("a root of a negative number is complex, and not supported")
		case math.IsInf(out, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0):
			fail("OverflowError", "(34, 'Numerical result out of range')")
		}
		return out
	}
	rest := math.Mod(x, y)
	quotient := (x - rest) / y
	if rest != 0 && (rest < 0) != (y < 0) {
		rest += y
		quotient--
	}
	if op == "%" {
		if rest == 0 {
			return math.Copysign(0, y)
		}
		return rest
	}
	if quotient == 0 {
		return math.Copysign(0, x/y)
	}
	if down := math.Floor(quotient); quotient-down > 0.5 {
		return down + 1
	} else {
		return down
	}
}

// add joins texts or lists.
func (r *render) add(left, right value) value {
	a, isText := asText(left)
	b, otherText := asText(right)
	if isText && otherText {
		_, safe := left.(markup)
		_, otherSafe := right.(markup)
		if safe && !otherSafe {
			b = escaped(b)
		} else if otherSafe && !safe {
			a = escaped(a)
		}
		r.make(len(a) + len(b))
		if safe || otherSafe {
			return markup(a + b)
		}
		return a + b
	}
	if isText {
		typeError(`can only concatenate str (not "%s") to str`, typeName(right))
	}
	x, isList := left.(*list)
	y, otherList := right.(*list)
	if isList && otherList && x.tuple == y.tuple {
		r.hold(len(x.items) + len(y.items))
		return &list{items: append(append(make([]value, 0, len(x.items)+len(y.items)), x.items...), y.items...), tuple: x.tuple}
	}
	if isList {
		kind := typeName(left)
		typeError(`can only concatenate %s (not "%s") to %s`, kind, typeName(right), kind)
	}
	typeError("unsupported operand type(s) for +: '%s' and '%s'", typeName(left), typeName(right))
	return nil
}

// repeated is v * times for texts and lists, nil for anything else.
func (r *render) repeated(v, times value) value {
	count, ok := asInt(times)
	if !ok {
		return nil
	}
	n := int(min(max(count, 0), maxMade+1))
	switch v := v.(type) {
	case string:
		r.make(len(v) * n)
		return strings.Repeat(v, n)
	case markup:
		r.make(len(v) * n)
		return markup(strings.Repeat(string(v), n))
	case *list:
		r.hold(len(v.items) * n)
		out := make([]value, 0, len(v.items)*n)
		for range n {
			if len(v.items) == 0 {
				break
			}
			out = append(out, v.items...)
		}
		return &list{items: out, tuple: v.tuple}
	}
	return nil
}
