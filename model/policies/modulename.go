package policies

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What the name of a module tells.

// words are the parts of a name by which q is told: query, wq, q_proj, to_q.
var words = regexp.MustCompile(`query|(^|[._])[wW]?[qQ]($|[._])`)

// siblings are what k and v would be called if a module were q.
func siblings(q string) (kv [][2]string) {
	for _, at := range words.FindAllStringIndex(q, -1) {
		var kvs [2]string
		for i, to := range []string{"k", "v"} {
			word := strings.NewReplacer("query", map[string]string{"k": "key", "v": "value"}[to], "q", to, "Q", strings.ToUpper(to)).Replace(q[at[0]:at[1]])
			kvs[i] = q[:at[0]] + word + q[at[1]:]
		}
		kv = append(kv, kvs)
	}
	return kv
}

// cutNumber cuts a name at its first part that is a number and follows one that contains after.
func cutNumber(name, after string) (before string, n int, rest string, ok bool) {
	parts := strings.Split(name, ".")
	for i := 1; i < len(parts)-1; i++ {
		n, err := strconv.ParseUint(parts[i], 10, 31)
		if err == nil && strings.Contains(parts[i-1], after) {
			return strings.Join(parts[:i], ".") + ".", int(n), strings.Join(parts[i+1:], "."), true
		}
	}
	return "", 0, "", false
}

// ends tells whether a module's name is name, or ends in it after a dot.
func ends(module, name string) bool { return module == name || strings.HasSuffix(module, "."+name) }

func parent(module string) string { return module[:max(strings.LastIndex(module, "."), 0)] }

func leaf(module string) string { return module[strings.LastIndex(module, ".")+1:] }

var wordBorder = regexp.MustCompile(`[a-zA-Z]+|\d+`)

// hasWord tells whether one of words is a word of a name: ln_1 and norm1 have the word 1, self_attn_layer_norm has attn.
func hasWord(name string, words ...string) bool {
	return slices.ContainsFunc(wordBorder.FindAllString(name, -1), func(w string) bool { return slices.Contains(words, strings.ToLower(w)) })
}

// inside are modules without what stands before the layer's number.
func inside(modules []string) string {
	short := make([]string, len(modules))
	for i, m := range modules {
		_, after, _ := strings.Cut(m, "{layer}.")
		short[i] = after
	}
	return strings.Join(short, " and ")
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
