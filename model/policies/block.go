package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// block is the modules of one layer of an unknown model, by their names inside the layer. Those of all experts stand as
// one, with {expert} for the number.
type block struct {
	at        string // model.layers.0
	shapes    map[string][]int64
	each      map[string]map[int][]int64 // of the experts' tensors, by expert
	experts   int
	linears   []string // modules with a weight of two axes, sorted
	inExperts []string // the same, of the experts
	norms     []string // modules with a weight of one axis, sorted
}

func newBlock(at string) *block {
	return &block{at: at, shapes: map[string][]int64{}, each: map[string]map[int][]int64{}}
}

func (b *block) refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrInjection, b.at, fmt.Sprintf(format, args...))
}

const anyExpert = "{expert}"

// add takes a tensor of the layer.
func (b *block) add(name string, shape []int64) error {
	before, expert, after, ok := cutNumber(name, "expert")
	if !ok {
		b.shapes[name] = shape
		return nil
	}
	name = before + anyExpert + "." + after
	if b.each[name] == nil {
		b.each[name] = map[int][]int64{}
	}
	b.each[name][expert] = shape
	b.experts = max(b.experts, len(b.each[name]))
	return nil
}

// close sorts the tensors into linears and norms, and refuses what is neither.
func (b *block) close() error {
	for _, name := range slices.Sorted(maps.Keys(b.each)) {
		for e := range b.experts {
			if shape, ok := b.each[name][e]; !ok || !slices.Equal(shape, b.each[name][0]) {
				return b.refuse("%s of expert %d is missing, or of another shape than that of expert 0", name, e)
			}
		}
		b.shapes[name] = b.each[name][0]
	}
	for _, name := range slices.Sorted(maps.Keys(b.shapes)) {
		module, weight := strings.CutSuffix(name, ".weight")
		biased, bias := strings.CutSuffix(name, ".bias")
		switch shape := b.shapes[name]; {
		case weight && len(shape) == 2 && strings.Contains(module, anyExpert):
			b.inExperts = append(b.inExperts, module)
		case weight && len(shape) == 2:
			b.linears = append(b.linears, module)
		case weight && len(shape) == 1 && !strings.Contains(module, anyExpert):
			b.norms = append(b.norms, module)
		case bias && len(shape) == 1 && b.shapes[biased+".weight"] != nil:
		default:
			return b.refuse("tensor %s %v is of no linear and no norm, and what it does cannot be told", name, shape)
		}
	}
	return nil
}

// differs says what is not as in another layer.
func (b *block) differs(like *block) string {
	all := maps.Clone(like.shapes)
	maps.Copy(all, b.shapes)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		here, there := b.shapes[name], like.shapes[name]
		switch {
		case here == nil:
			return name + " is not there"
		case there == nil:
			return name + " is only here"
		case !slices.Equal(here, there):
			return fmt.Sprintf("%s is %v, there %v", name, here, there)
		}
	}
	return fmt.Sprintf("%d experts, there %d", b.experts, like.experts)
}
