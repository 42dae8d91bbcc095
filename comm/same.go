package comm

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/dsbatch/dsbatch/mpi"
)

// ErrUnlike marks ranks that have different settings, programs, models or inputs.
var ErrUnlike = errors.New("the ranks are not alike")

// Trait is something that all ranks of a job must have in common: a setting, the program's version, a model's digest.
type Trait struct{ Name, Value string }

// Same checks that all ranks have the same traits, in one small collective call where they do. The error, on every rank,
// wraps ErrUnlike and tells the first rank that differs from rank 0, in what, which others do, and then mend, what to do about it.
func Same(ctx context.Context, w mpi.World, traits []Trait, mend string) error {
	mine, err := json.Marshal(introduction{w.Host(), traits})
	if err != nil {
		return err
	}
	_, traitsOnly, _ := strings.Cut(string(mine), `,"Traits":`) // hosts differ
	digest := sha256.Sum256([]byte(traitsOnly))
	digests := make([]byte, len(digest)*w.Size())
	if err := w.AllGather(ctx, digest[:], digests); err != nil {
		return err
	}
	var unlike []int
	for rank := range w.Size() {
		if string(digests[rank*len(digest):(rank+1)*len(digest)]) != string(digests[:len(digest)]) {
			unlike = append(unlike, rank)
		}
	}
	if len(unlike) == 0 {
		return nil
	}
	all, err := introduce(ctx, w, mine)
	if err != nil {
		return err
	}
	first := unlike[0]
	text := fmt.Sprintf("rank %d (%s) differs from rank 0 (%s) in %s", first, all[first].Host, all[0].Host, differences(all[0].Traits, all[first].Traits))
	if len(unlike) > 1 {
		text += fmt.Sprintf("; %d ranks differ, up to rank %d", len(unlike), unlike[len(unlike)-1])
	}
	return fmt.Errorf("%w: %s; %s", ErrUnlike, text, mend)
}

// introduction is what a rank tells of itself.
type introduction struct {
	Host   string
	Traits []Trait
}

// introduce tells all ranks the introduction, in JSON, of every one.
func introduce(ctx context.Context, w mpi.World, mine []byte) ([]introduction, error) {
	texts, err := AllGather(ctx, w, mine)
	if err != nil {
		return nil, err
	}
	all := make([]introduction, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal(text, &all[i]); err != nil {
			return nil, fmt.Errorf("what rank %d tells of itself: %w", i, err)
		}
	}
	return all, nil
}

// differences names up to three traits in which other is not like zero.
func differences(zero, other []Trait) string {
	const shown = 3
	values := func(of []Trait) map[string]string {
		m := make(map[string]string, len(of))
		for _, t := range of {
			m[t.Name] = t.Value
		}
		return m
	}
	was, is := values(zero), values(other)
	var list []string
	for _, t := range other {
		if w, ok := was[t.Name]; !ok {
			list = append(list, fmt.Sprintf("%s (%s, rank 0 has none)", t.Name, abridged(t.Value, "")))
		} else if w != t.Value {
			list = append(list, fmt.Sprintf("%s (%s, rank 0 has %s)", t.Name, abridged(t.Value, w), abridged(w, t.Value)))
		}
	}
	for _, t := range zero {
		if _, ok := is[t.Name]; !ok {
			list = append(list, fmt.Sprintf("%s (none, rank 0 has %s)", t.Name, abridged(t.Value, "")))
		}
	}
	if len(list) > shown {
		list = append(list[:shown], fmt.Sprintf("%d more", len(list)-shown))
	}
	return strings.Join(list, ", ")
}

// abridged is a value, where it is long the part in which it begins to differ from the other one.
func abridged(value, other string) string {
	const most = 60
	if len(value) <= most {
		return fmt.Sprintf("%q", value)
	}
	at := 0
	for at < min(len(value), len(other)) && value[at] == other[at] {
		at++
	}
	from := max(0, min(at-most/3, len(value)-most))
	return fmt.Sprintf("…%q…", value[from:min(len(value), from+most)])
}
