package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// ErrInjection marks named linears (DeepSpeed's injection_policy) that do not fit the model, or do not tell enough of it.
var ErrInjection = errors.New("injection_policy does not fit the model")

// Injected is a policy for a model of no family in All, made from the names of its row-parallel linears.
type Injected struct {
	model.Policy
	Understood []string // what each part of the block was taken for, a line each
	Assumed    []string // what no file tells, and is as in most families of All
}

// Inject makes a policy for a model of no family in All. linears are endings of the names of those linears of a block
// whose outputs are summed over tp: the attention's output and the second one of the MLP or of each expert. Everything
// else follows from the names and shapes of the tensors and from the config's common keys; what these do not tell is
// refused by name, and can be told under the config's keys block, qkv_layout and rope_interleaved (docs/slicing.md).
// causal says that a token sees earlier ones only, where the config does not.
// Errors are model.ErrConfig and ErrInjection.
func Inject(f model.Facts, c *ckpt.Checkpoint, linears []string, causal bool) (*Injected, error) {
	s, err := newStack(c)
	if err != nil {
		return nil, err
	}
	if err := s.has(linears); err != nil {
		return nil, err
	}
	k := &unknown{Facts: f}
	z, err := k.sizes()
	if err != nil {
		return nil, err
	}
	if z.layers != len(s.layers) {
		return nil, k.refuse("it tells of %d layers, but the tensors are of %d under %s", z.layers, len(s.layers), s.prefix)
	}
	kinds, err := s.kinds(z, linears)
	if err != nil {
		return nil, err
	}
	outer, err := s.outer(z, kinds.any())
	if err != nil {
		return nil, err
	}
	shape, err := k.config(z, kinds, outer, causal)
	if err != nil {
		return nil, err
	}
	y := &Injected{Assumed: k.assumed}
	y.Policy = model.Policy{
		Configure: func(model.Facts) (model.Config, error) { return shape, nil },
		Tensors:   s.names(outer, kinds), QKV: z.order(kinds.any()), Transposed: kinds.any().transposed, Ignored: s.buffers,
	}
	y.Understood = s.tell(&shape, outer, kinds)
	return y, nil
}

// kinds are the two kinds of layers that a model can have.
type kinds struct {
	dense, experts *roles   // nil: no layer is of the kind
	of             []*roles // each layer's
}

// any is what the kinds have in common.
func (k kinds) any() *roles { return k.of[0] }

// kinds finds out what the modules of all layers are: those of a kind are alike.
func (s *stack) kinds(z sizes, linears []string) (k kinds, err error) {
	var dense, experts *block
	for _, b := range s.layers {
		r, err := b.roles(z, linears)
		if err != nil {
			return k, err
		}
		like, first := &k.dense, &dense
		if r.experts > 0 {
			like, first = &k.experts, &experts
		}
		if *like == nil {
			*like, *first = r, b
		} else if **like != *r {
			return k, b.refuse("it is not as %s (%s); one block can be understood, for all layers", (*first).at, b.differs(*first))
		}
		k.of = append(k.of, *like)
	}
	if k.dense != nil && k.experts != nil && k.dense.attention != k.experts.attention {
		return k, dense.refuse("attention, norms or biases are not as in %s (%s); one block can be understood, for all layers", experts.at, dense.differs(experts))
	}
	return k, nil
}

// stack is the tensors of a model: those of its layers, and the others.
type stack struct {
	path    string
	prefix  string // of the layers: model.layers.
	layers  []*block
	outside map[string][]int64 // shapes by names
	buffers []string           // masks and rotary tables, which hold nothing that the model needs
}

// newStack finds the layers: the one prefix under which names go on with a number.
func newStack(c *ckpt.Checkpoint) (*stack, error) {
	s := &stack{path: c.Path, outside: map[string][]int64{}}
	found := map[string]map[int]*block{}
	for _, name := range c.Names() {
		t, _ := c.Tensor(name)
		if strings.HasSuffix(name, ".rotary_emb.inv_freq") || strings.HasSuffix(name, ".masked_bias") || strings.HasSuffix(name, ".bias") && len(t.Shape) == 4 {
			s.buffers = append(s.buffers, name)
			continue
		}
		before, layer, inside, ok := cutNumber(name, "")
		if !ok {
			s.outside[name] = t.Shape
			continue
		}
		if found[before] == nil {
			found[before] = map[int]*block{}
		}
		b := found[before][layer]
		if b == nil {
			b = newBlock(fmt.Sprintf("%s%d", before, layer))
			found[before][layer] = b
		}
		if err := b.add(inside, t.Shape); err != nil {
			return nil, err
		}
	}
	prefixes := slices.Sorted(maps.Keys(found))
	if len(prefixes) != 1 {
		return nil, fmt.Errorf("%w: %s: layers are numbered under %s; one stack of layers, under one name, can be understood", ErrInjection, s.path, orNothing(prefixes))
	}
	s.prefix = prefixes[0]
	for i := range len(found[s.prefix]) {
		b := found[s.prefix][i]
		if b == nil {
			return nil, fmt.Errorf("%w: %s has %d layers under %s, but none is number %d", ErrInjection, s.path, len(found[s.prefix]), s.prefix, i)
		}
		if err := b.close(); err != nil {
			return nil, err
		}
		s.layers = append(s.layers, b)
	}
	return s, nil
}

// has refuses a name that is no linear's, in DeepSpeed's words and with the names that there are.
func (s *stack) has(linears []string) error {
	for _, name := range linears {
		if !slices.ContainsFunc(s.layers, func(b *block) bool {
			return slices.ContainsFunc(slices.Concat(b.linears, b.inExperts), func(module string) bool { return ends(module, name) })
		}) {
			b := s.layers[0]
			return fmt.Errorf("%w: Injection policy layer'%s' not valid. No linear of %s has that name; those of %s are %s", ErrInjection, name, s.path, b.at,
				strings.Join(slices.Concat(b.linears, b.inExperts), ", "))
		}
	}
	return nil
}

// outer is the names of the tensors outside of the layers, "" where there is none, and the rows of the tables.
type outer struct {
	embed, positions, norm, head string // modules
	vocab, window                int
}

// outer finds the embedding, the positions, the final norm and the head.
func (s *stack) outer(z sizes, r *roles) (o outer, err error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrInjection, s.path, fmt.Sprintf(format, args...))
	}
	var tables, norms []string
	for _, name := range slices.Sorted(maps.Keys(s.outside)) {
		module, weight := strings.CutSuffix(name, ".weight")
		shape := s.outside[name]
		switch {
		case weight && len(shape) == 2 && shape[1] == int64(z.hidden):
			tables = append(tables, module)
		case weight && len(shape) == 1 && shape[0] == int64(z.hidden):
			norms = append(norms, module)
		case strings.HasSuffix(name, ".bias") && s.isNorm(strings.TrimSuffix(name, ".bias")):
		default:
			return o, refuse("tensor %s %v, outside of the layers, is no table of embeddings or positions, no final norm and no head", name, shape)
		}
	}
	if len(norms) != 1 {
		return o, refuse("outside of the layers there are the norms %s; a block with its norms first has one after the last layer, and no other can be understood", orNothing(norms))
	}
	o.norm = norms[0]
	if _, biased := s.outside[o.norm+".bias"]; biased != r.normBias {
		return o, refuse("the norm %s and those of the layers are of two kinds: not all have a bias", o.norm)
	}
	rest := slices.DeleteFunc(slices.Clone(tables), func(m string) bool { return !hasWord(m, "wpe", "pos", "position", "positions", "positional") })
	if len(rest) == 1 {
		o.positions = rest[0]
		o.window = int(s.outside[o.positions+".weight"][0])
	}
	tables = slices.DeleteFunc(tables, func(m string) bool { return m == o.positions })
	switch heads := slices.DeleteFunc(slices.Clone(tables), func(m string) bool { return !hasWord(m, "head", "out", "output", "unembed") }); {
	case len(tables) == 1:
		o.embed = tables[0]
	case len(tables) == 2 && len(heads) == 1:
		o.head = heads[0]
		o.embed = tables[0]
		if o.embed == o.head {
			o.embed = tables[1]
		}
	default:
		return o, refuse("of the tables %s it cannot be told which one is the embedding and which one the head", orNothing(tables))
	}
	o.vocab = int(s.outside[o.embed+".weight"][0])
	if o.head != "" && !slices.Equal(s.outside[o.head+".weight"], s.outside[o.embed+".weight"]) {
		return o, refuse("the head %s and the embedding %s are of different shapes", o.head, o.embed)
	}
	return o, nil
}

func (s *stack) isNorm(module string) bool { return len(s.outside[module+".weight"]) == 1 }

// names are the tensor names of everything that was found.
func (s *stack) names(o outer, k kinds) model.Names {
	n := model.Names{}
	put := func(prefix string, modules map[string]string) {
		for canonical, module := range modules {
			if module != "" {
				n[canonical] = prefix + module + ".weight"
			}
		}
	}
	put("", map[string]string{"embed": o.embed, "positions": o.positions, "norm": o.norm, "head": o.head})
	for kind, r := range map[string]*roles{"mlp": k.dense, "expert": k.experts} {
		if r == nil {
			continue
		}
		a := r.attention
		put(s.prefix+"{layer}.", map[string]string{
			"attn.norm": a.attnNorm, "mlp.norm": a.mlpNorm, "attn.q": a.q, "attn.k": a.k, "attn.v": a.v, "attn.qkv": a.qkv, "attn.out": a.out,
			"attn.qnorm": a.qNorm, "attn.knorm": a.kNorm, "moe.gate": r.router,
			kind + ".gate": r.gate, kind + ".up": r.up, kind + ".down": r.down,
		})
	}
	return n
}

// tell says what was understood, a line each.
func (s *stack) tell(c *model.Config, o outer, k kinds) []string {
	r := k.any()
	projections := strings.Join([]string{r.q, r.k, r.v}, ", ")
	if r.qkv != "" {
		projections = r.qkv + " (q, k and v together)"
	}
	norm, positions, head := "RMSNorm", "learned, "+o.positions, "head "+o.head
	if c.Norm == kernels.LayerNorm {
		norm = "LayerNorm"
	}
	if c.Rope != nil {
		positions = fmt.Sprintf("rotary, %d of %d values of a head, base %g", c.Rope.Dim, c.HeadDim, c.Rope.Theta)
	}
	if c.TiedHead {
		head = "the same table as head"
	}
	attention := fmt.Sprintf("attention: %s %s, then %s, then %s, summed over tp; %d heads, %d key-value heads, %d values each", norm, r.attnNorm, projections, r.out, c.Heads, c.KVHeads, c.HeadDim)
	if r.qNorm != "" {
		attention += fmt.Sprintf("; queries and keys normalised by %s and %s", r.qNorm, r.kNorm)
	}
	lines := []string{
		fmt.Sprintf("layers: %s0 to %d; embedding %s, final norm %s, %s", s.prefix, c.Layers-1, o.embed, o.norm, head),
		"positions: " + positions, attention,
	}
	for _, r := range []*roles{k.dense, k.experts} {
		if r == nil {
			continue
		}
		what, first := "MLP", r.up
		if r.gate != "" {
			first = "act(" + r.gate + ")·" + r.up
		}
		if r.experts > 0 {
			what = fmt.Sprintf("%d experts behind %s", r.experts, r.router)
		}
		lines = append(lines, fmt.Sprintf("%s: %s %s, then %s, then %s, summed over tp; %d inside", what, norm, r.mlpNorm, first, r.down, r.ffn))
	}
	return lines
}

// Sums refuses linears that are not the row-parallel ones of a family that is known.
func Sums(p model.Policy, c *model.Config, linears []string, has func(module string) bool) error {
	var sums []string
	want := []string{"attn.out"}
	for _, m := range c.MoE {
		switch {
		case m.Gate.Experts == 0:
			want = append(want, "mlp.down")
		case m.Branch() > 0:
			want = append(want, "expert.down", "residual.down")
		default:
			want = append(want, "expert.down")
		}
	}
	for _, canonical := range want {
		if name := strings.TrimSuffix(p.Tensors[canonical], ".weight"); !slices.Contains(sums, name) {
			sums = append(sums, name)
		}
	}
	right := func(name string) bool {
		return slices.ContainsFunc(sums, func(module string) bool { return ends(module, name) })
	}
	for _, name := range linears {
		if !has(name) {
			return fmt.Errorf("%w: Injection policy layer'%s' not valid. %s has no linear of that name, and sums %s over tp; name these, or leave injection_policy out", ErrInjection, name, c.Family, inside(sums))
		}
		if !right(name) {
			return fmt.Errorf("%w: %s is not summed over tp in %s, whose outputs of %s are; name these, or leave injection_policy out", ErrInjection, name, c.Family, inside(sums))
		}
	}
	for _, module := range sums {
		if !slices.ContainsFunc(linears, func(name string) bool { return ends(module, name) }) {
			return fmt.Errorf("%w: %s sums the outputs of %s over tp, too; name it beside %s, or leave injection_policy out", ErrInjection, c.Family, inside([]string{module}), strings.Join(linears, ", "))
		}
	}
	return nil
}
