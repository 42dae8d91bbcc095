package dataset

import (
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
)

// Columns names the columns that a job reads. A name that is empty is not used, but for Prompt, which is "prompt" where
// neither IDs nor Messages is named. The columns max_new_tokens, min_new_tokens, temperature, top_k, top_p, seed and
// stop are read wherever they are present.
type Columns struct {
	Prompt       string        // text: utf8, large_utf8, binary with UTF-8 in it, dictionaries and views of these
	IDs          string        // token ids: a list of integers
	Messages     string        // chat: a list of structs or maps, or a text that is a JSON array of objects
	Continuation string        // text to score after the prompt
	Pair         string        // second text of a pair
	Tools        string        // of a chat: as Messages, but null or empty where there are none
	ID           string        // the rows' own id: an integer or a text
	Carry        []CarryColumn // columns that go through to the output
	CarryAll     bool          // all columns that have no other use here go through, after those of Carry
}

// CarryColumn is a column that goes through to the output; As is its name there, empty for its own.
type CarryColumn struct{ Name, As string }

func (c CarryColumn) as() string {
	if c.As != "" {
		return c.As
	}
	return c.Name
}

// The per-row columns, in the order of roles.
var overrideNames = [...]string{"max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "seed", "stop"}

// role is what a column is used for.
type role int

const (
	rolePrompt role = iota
	roleIDs
	roleMessages
	roleContinuation
	rolePair
	roleID
	roleTools
	roleMaxNewTokens
	roleMinNewTokens
	roleTemperature
	roleTopK
	roleTopP
	roleSeed
	roleStop
	roles
)

// roleFlag is how a user names another column for a role.
var roleFlag = [...]string{"--prompt-column", "--ids-column", "--messages-column", "--continuation-column", "--pair-column", "--id-column", "--tools-column"}

// names lists the column of each role, empty where there is none; set tells whether the user wants it.
func (c Columns) names() (names [roles]string, err error) {
	if c.Prompt == "" && c.IDs == "" && c.Messages == "" {
		c.Prompt = "prompt"
	}
	used := 0
	for i, name := range []string{c.Prompt, c.IDs, c.Messages} {
		names[i] = name
		if name != "" {
			used++
		}
	}
	if used > 1 {
		return names, refuse(ErrUsage, "a row has one input: name one of --prompt-column, --ids-column and --messages-column, not %d of them", used)
	}
	names[roleContinuation], names[rolePair], names[roleID], names[roleTools] = c.Continuation, c.Pair, c.ID, c.Tools
	copy(names[roleMaxNewTokens:], overrideNames[:])
	as := map[string]bool{}
	for _, carry := range c.Carry {
		if carry.Name == "" {
			return names, refuse(ErrUsage, "--carry has an empty column name")
		}
		if as[carry.as()] {
			return names, refuse(ErrUsage, "--carry gives two columns the name %q: rename one with NAME:OTHER", carry.as())
		}
		as[carry.as()] = true
	}
	return names, nil
}

// kind of values that a role takes, and how to say so.
func (r role) fits(typ arrow.DataType) (bool, string) {
	switch r {
	case rolePrompt, roleContinuation, rolePair:
		return isText(typ), "a text"
	case roleIDs:
		elem := elemType(typ)
		return elem != nil && (arrow.IsInteger(elem.ID()) || elem.ID() == arrow.NULL), "a list of integers"
	case roleMessages:
		elem := elemType(typ)
		return isText(typ) || elem != nil && (elem.ID() == arrow.STRUCT || elem.ID() == arrow.MAP || isText(elem)),
			"a list of messages, each with a role and content"
	case roleTools:
		elem := elemType(typ)
		return isText(typ) || typ.ID() == arrow.NULL || elem != nil && (elem.ID() == arrow.STRUCT || elem.ID() == arrow.MAP || elem.ID() == arrow.NULL || isText(elem)), "a list of objects"
	case roleID:
		return isText(typ) || arrow.IsInteger(typ.ID()), "an integer or a text"
	case roleStop:
		elem := elemType(typ)
		return isText(typ) || elem != nil && (isText(elem) || elem.ID() == arrow.NULL) || typ.ID() == arrow.NULL,
			"a text or a list of texts"
	}
	return arrow.IsInteger(typ.ID()) || arrow.IsFloating(typ.ID()) || typ.ID() == arrow.NULL, "a number"
}

func isText(typ arrow.DataType) bool {
	switch typ.ID() {
	case arrow.STRING, arrow.LARGE_STRING, arrow.BINARY, arrow.LARGE_BINARY:
		return true
	}
	return false
}

func elemType(typ arrow.DataType) arrow.DataType {
	switch t := typ.(type) {
	case *arrow.ListType:
		return t.Elem()
	case *arrow.FixedSizeListType:
		return t.Elem()
	}
	return nil
}

// binding says where the columns of a file's records come from and what they are used for.
type binding struct {
	wanted []int      // columns of the source, in the order of the records
	place  [roles]int // of each role's column in a record, -1 where there is none
	names  [roles]string
}

// bind finds the columns of each role by name and checks their types.
func bind(path string, cols []column, names [roles]string) (binding, error) {
	b := binding{names: names}
	for r := range roles {
		b.place[r] = -1
		i := find(cols, names[r])
		if i < 0 {
			if names[r] != "" && r < roleMaxNewTokens {
				return b, missingColumn(path, names[r], cols, roleFlag[r])
			}
			continue
		}
		if find(cols[i+1:], names[r]) >= 0 {
			return b, twiceColumn(path, names[r])
		}
		if err := cols[i].err; err != nil {
			return b, refuse(ErrColumn, "%s: column %s %v", path, names[r], err)
		}
		if ok, want := r.fits(cols[i].Type); !ok {
			return b, wrongType(path, names[r], cols[i].Type, want, r)
		}
		b.place[r] = b.want(i)
	}
	return b, nil
}

// want adds a source column to the records, once.
func (b *binding) want(i int) int {
	if at := slices.Index(b.wanted, i); at >= 0 {
		return at
	}
	b.wanted = append(b.wanted, i)
	return len(b.wanted) - 1
}

func find(cols []column, name string) int {
	if name == "" {
		return -1
	}
	return slices.IndexFunc(cols, func(c column) bool { return c.Name == name })
}

func wrongType(path, name string, typ arrow.DataType, want string, r role) error {
	mend := "convert it, or rename it to keep it out of the job"
	if int(r) < len(roleFlag) {
		mend = "convert it, or name another column with " + roleFlag[r]
	}
	return refuse(ErrColumn, "%s: column %s has the type %v where %s is needed; %s", path, name, typ, want, mend)
}

// twiceColumn refuses to guess which of two is meant.
func twiceColumn(path, name string) error {
	return refuse(ErrColumn, "%s: two columns have the name %q; rename one", path, name)
}

// missingColumn names what is there and what may have been meant.
func missingColumn(path, name string, cols []column, flag string) error {
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = c.Name
	}
	hint := meant(name, names)
	for _, n := range names {
		if flag == "--carry" && strings.HasPrefix(n, name+":") {
			hint = fmt.Sprintf(` (a colon of a name stands behind a backslash: %s)`, strings.ReplaceAll(n, ":", `\:`))
		}
	}
	return refuse(ErrColumn, "%s: no column %q; it has %s%s; name one with %s", path, name, listed(names), hint, flag)
}

func listed(names []string) string {
	const most = 20
	switch {
	case len(names) == 0:
		return "no columns"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// meant is " (did you mean …?)" where a name is near.
func meant(name string, names []string) string {
	best, nearest := "", max(2, len(name)/3)+1
	for _, n := range names {
		if d := editDistance(strings.ToLower(name), strings.ToLower(n)); d < nearest {
			best, nearest = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// editDistance counts the insertions, deletions and replacements between two names.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
