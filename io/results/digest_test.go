package results

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// fromJSON is an array of the values that text lists.
func fromJSON(t testing.TB, typ arrow.DataType, text string) arrow.Array {
	t.Helper()
	a, _, err := array.FromJSON(memory.DefaultAllocator, typ, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func digestOf(a arrow.Array, first int64) digest {
	schema := arrow.NewSchema([]arrow.Field{{Name: "c", Type: a.DataType(), Nullable: true}}, nil)
	sums := digests{}
	sums.add(array.NewRecordBatch(schema, []arrow.Array{a}, int64(a.Len())), first)
	return sums["c"]
}

// TestDigestTellsApart: what a person would call different has different digests.
func TestDigestTellsApart(t *testing.T) {
	text, ints := arrow.ListOf(arrow.BinaryTypes.String), arrow.ListOf(arrow.ListOf(arrow.PrimitiveTypes.Int32))
	for _, family := range []struct {
		typ    arrow.DataType
		values []string
	}{
		{arrow.PrimitiveTypes.Int32, []string{`[0]`, `[null]`, `[0,0]`, `[1,2]`, `[2,1]`, `[1,null]`, `[null,1]`, `[-1]`, `[]`}},
		{arrow.FixedWidthTypes.Boolean, []string{`[false]`, `[true]`, `[null]`, `[true,false]`, `[false,true]`}},
		{arrow.BinaryTypes.String, []string{`[""]`, `[null]`, `["a"]`, `["a","a"]`, `["aa"]`, `["a\u0000"]`, `["12345678"]`, `["12345678\u0000"]`, `["12345679"]`, `["a","b"]`, `["b","a"]`, `["ab",""]`}},
		{text, []string{`[[]]`, `[null]`, `[[null]]`, `[[""]]`, `[["",""]]`, `[["ab"]]`, `[["a","b"]]`, `[["a"],["b"]]`, `[["a","b"],[]]`, `[[],["a","b"]]`}},
		{ints, []string{`[[[1],[2]]]`, `[[[1,2]]]`, `[[[1,2],[]]]`, `[[[],[1,2]]]`, `[[[1],null,[2]]]`, `[[[1,null,2]]]`}},
	} {
		seen := map[digest]string{}
		for _, v := range family.values {
			d := digestOf(fromJSON(t, family.typ, v), 0)
			if other, ok := seen[d]; ok {
				t.Errorf("%s: %s and %s have the digest %x", family.typ, other, v, d)
			}
			seen[d] = v
		}
	}
	numbers := array.NewFloat64Builder(memory.DefaultAllocator)
	numbers.AppendValues([]float64{0, math.Copysign(0, -1), math.NaN()}, nil)
	a := numbers.NewArray()
	if digestOf(array.NewSlice(a, 0, 1), 0) == digestOf(array.NewSlice(a, 1, 2), 0) {
		t.Error("0 and −0 have the same digest")
	}
	if nan := array.NewSlice(a, 2, 3); digestOf(nan, 0) != digestOf(array.NewSlice(numbersAgain(), 0, 1), 0) {
		t.Error("NaN differs from itself")
	}
	one := fromJSON(t, arrow.PrimitiveTypes.Int32, `[7]`)
	if digestOf(one, 0) == digestOf(one, 1) {
		t.Error("the place of a record does not count")
	}
}

func numbersAgain() arrow.Array {
	b := array.NewFloat64Builder(memory.DefaultAllocator)
	b.Append(math.NaN())
	return b.NewArray()
}

// TestDigestIgnoresTheCut: pieces, from wherever in their buffers, add up to the whole.
func TestDigestIgnoresTheCut(t *testing.T) {
	const values = `[[["a",null],[]],null,[],[null,["bcdefghijk"]],[["a"]],[["b","c","d"],["e"]],null]`
	a := fromJSON(t, arrow.ListOf(arrow.ListOf(arrow.BinaryTypes.String)), values)
	whole, chance := digestOf(a, 40), rand.New(rand.NewPCG(1, 1))
	for range 50 {
		var sum digest
		for from := 0; from < a.Len(); {
			to := from + 1 + chance.IntN(a.Len()-from)
			sum += digestOf(array.NewSlice(a, int64(from), int64(to)), int64(40+from))
			from = to
		}
		if sum != whole {
			t.Fatal("the sum of the pieces is not the whole")
		}
	}
}

// TestDigestIsFixed: commit lines of today are read by the versions of tomorrow.
func TestDigestIsFixed(t *testing.T) {
	for text, want := range map[string]digest{`["a",null,"thirteen bytes"]`: 0x53aa874907758b31, `[]`: 0} {
		got := digestOf(fromJSON(t, arrow.BinaryTypes.String, text), 3)
		if got != want {
			t.Errorf("%s: %#016x, want %#016x", text, uint64(got), uint64(want))
		}
	}
}
