package ckpt

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// TestPickles: programs as Python 3.11's pickle.dumps writes them, and by hand where it no longer writes the opcode.
func TestPickles(t *testing.T) {
	for _, c := range []struct{ program, want string }{
		{"\x80\x02K\x07.", "7"},
		{"\x80\x02M\x39\x30.", "12345"},
		{"\x80\x02J\xff\xff\xff\xff.", "-1"},
		{"\x80\x02\x8a\x00.", "0"},
		{"\x80\x02\x8a\x01\xff.", "-1"},
		{"\x80\x02\x8a\x05\x00\x00\x00\x00\x01.", "4294967296"},
		{"\x80\x02\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", "-9223372036854775808"},
		{"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.", "9223372036854775808"},
		{"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xff.", "-9223372036854775809"},
		{"\x80\x02G\x3f\xf8\x00\x00\x00\x00\x00\x00.", "1.5"},
		{"\x80\x02N.", "None"},
		{"\x80\x02]q\x00(K\x01\x88\x89e.", "[1 true false]"},
		{"\x80\x02K\x01K\x02K\x03\x87.", "(1 2 3)"},
		{"\x80\x02(K\x01K\x02t.", "(1 2)"},
		{"\x80\x02).", "()"},
		{"\x80\x02(K\x01K\x02l.", "[1 2]"},
		{"\x80\x02(X\x01\x00\x00\x00aK\x01d.", "{a:1}"},
		{"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bh\x00u.", "{a:1 b:…}"},
		{"\x80\x02U\x03abc.", "abc"},
		{"\x80\x02T\x03\x00\x00\x00abc.", "abc"},
		{"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01x\x94C\x02hi\x94s.", "{x:[104 105]}"},
		{"\x80\x04\x8f\x94(K\x01K\x02\x90.", "[1 2]"},
		{"\x80\x04(K\x01K\x02\x91.", "[1 2]"},
		{"\x80\x02ccollections\nOrderedDict\n]q\x00(]q\x01(X\x01\x00\x00\x00aK\x01eK\x05K\x06\x86e\x85R.", "{a:1 5:6}"},
		{"\x80\x02c__builtin__\nset\n](K\x01K\x02e\x85R.", "[1 2]"},
		{"\x80\x02ctorch\nbfloat16\n.", "BF16"},
		{"\x80\x02ctorch\nSize\nK\x02K\x03\x86\x85R.", "(2 3)"},
		{"\x80\x02K\x01K\x022.", "error"},                           // two things are left
		{"\x80\x02K\x010K\x05.", "5"},                               // POP
		{"\x80\x02K\x05(K\x01K\x021.", "5"},                         // POP_MARK
		{"\x80\x02(.", "error"},                                     // a mark is no object
		{"\x80\x02K\x01", "error"},                                  // no STOP
		{"\x80\x02h\x05.", "error"},                                 // never stored
		{"\x80\x02e.", "error"},                                     // no mark
		{"\x80\x02K\x01K\x02a.", "error"},                           // a number is no list
		{"\x80\x02}(K\x01u.", "error"},                              // a key without a value
		{"\x80\x02X\xff\xff\xff\x7fa.", "error"},                    // a text longer than the file
		{"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "error"}, // and one longer than any
		{"\x80\x02S'abc'\n.", "error"},                              // protocol 0
		{"\x80\x02ctorch\nFloatStorage\n)R.", "error"},              // a storage is named, never built
		{"\x80\x02K\x01)R.", "error"},                               // a number is no class
		{"\x80\x02K\x01Q.", "error"},                                // no storage
		{"", "error"},
	} {
		x, n, err := unpickle([]byte(c.program), (&torchFile{}).storageOf)
		got := "error"
		if err == nil {
			got = shown(x, 0)
		}
		if got != c.want || err == nil && n != len(c.program) {
			t.Errorf("%q: %s (%v), want %s", c.program, got, err, c.want)
		}
	}
}

// shown writes what a pickle built, two levels deep.
func shown(x any, depth int) string {
	all := func(items []any) string {
		var s []string
		for _, i := range items {
			s = append(s, shown(i, depth+1))
		}
		return strings.Join(s, " ")
	}
	switch v := x.(type) {
	case nil:
		return "None"
	case tuple:
		return "(" + all(v) + ")"
	case *list:
		return "[" + all(v.items) + "]"
	case *dict:
		if depth > 0 {
			return "…"
		}
		var s []string
		for _, k := range v.keys {
			s = append(s, fmt.Sprint(k, ":", shown(v.items[k], depth+1)))
		}
		return "{" + strings.ReplaceAll(strings.Join(s, " "), " :", ":") + "}"
	case *big.Int:
		return v.String()
	}
	return fmt.Sprint(x)
}
