package policies

import (
	"slices"
	"strings"
)

// attention is the modules of the attention, and what both kinds of layers have in common.
type attention struct {
	attnNorm, mlpNorm string
	q, k, v, qkv, out string // q, k and v, or qkv
	qNorm, kNorm      string // "" or both
	qkNormOfHead      bool
	kv, dim           int // key-value heads, values of a head
	transposed        bool
	normBias          bool
	qkvBias, outBias  bool
	mlpBias           bool
}

// roles is what each module of a layer is.
type roles struct {
	attention
	gate, up, down string // of the MLP, or of an expert
	ffn            int
	router         string
	experts        int // 0: a dense layer
}

// roles finds out what each module of the layer is.
func (b *block) roles(z sizes, linears []string) (*roles, error) {
	r := &roles{}
	named := func(module string) bool {
		return slices.ContainsFunc(linears, func(name string) bool { return ends(module, name) })
	}
	var err error
	if r.transposed, err = b.orientation(); err != nil {
		return nil, err
	}
	if err := b.projections(z, r); err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(slices.Clone(b.linears), func(m string) bool { return slices.Contains([]string{r.q, r.k, r.v, r.qkv}, m) })
	if r.out, err = b.output(z, r, rest); err != nil {
		return nil, err
	}
	rest = slices.DeleteFunc(rest, func(m string) bool { return m == r.out })
	mlp := rest
	if b.experts > 0 {
		if err := b.routed(z, r, rest); err != nil {
			return nil, err
		}
		mlp = b.inExperts
	}
	if err := b.mlp(z, r, mlp, named); err != nil {
		return nil, err
	}
	for _, m := range slices.Concat(b.linears, b.inExperts) { // all that are named are summed, and the other way round
		if sum := m == r.out || m == r.down; sum && !named(m) {
			return nil, b.refuse("the outputs of %s are summed over tp, too: its inputs are what the linears before it give; name it in injection_policy beside %s", m, strings.Join(linears, ", "))
		} else if !sum && named(m) {
			return nil, b.refuse("%s is named in injection_policy, but its outputs are not summed over tp: the next linear takes them; name %s and %s", m, r.out, r.down)
		}
	}
	if err := b.normsOf(z, r); err != nil {
		return nil, err
	}
	return r, b.biases(r)
}

// size is the outputs and inputs of a linear.
func (b *block) size(r *roles, module string) (out, in int) {
	s := b.shapes[module+".weight"]
	if r.transposed {
		return int(s[1]), int(s[0])
	}
	return int(s[0]), int(s[1])
}

// orientation tells by the biases, which are as long as the outputs, whether weights are [in, out]. Where none tells,
// they are nn.Linear's, [out, in]: only GPT-2's Conv1D has the others, always with a bias.
func (b *block) orientation() (transposed bool, err error) {
	var straight, turned string
	for _, m := range slices.Concat(b.linears, b.inExperts) {
		s, bias := b.shapes[m+".weight"], b.shapes[m+".bias"]
		switch {
		case bias == nil || s[0] == s[1]:
		case bias[0] == s[0]:
			straight = m
		case bias[0] == s[1]:
			turned = m
		default:
			return false, b.refuse("the bias of %s has %d values, its weight is %v", m, bias[0], s)
		}
	}
	if straight != "" && turned != "" {
		return false, b.refuse("the weight of %s is [out, in], that of %s [in, out]; all of one kind can be understood", straight, turned)
	}
	return turned != "", nil
}

// projections finds q, k and v by their names, or the linear that holds all three by its shape.
func (b *block) projections(z sizes, r *roles) error {
	if r.qkv = b.stated(z, "attn.qkv", b.linears); r.qkv != "" {
		return b.fused(z, r, []string{r.qkv})
	}
	var triples [][3]string
	if q, k, v := b.stated(z, "attn.q", b.linears), b.stated(z, "attn.k", b.linears), b.stated(z, "attn.v", b.linears); q != "" && k != "" && v != "" {
		triples = [][3]string{{q, k, v}}
	} else {
		for _, m := range b.linears {
			for _, other := range siblings(m) {
				if slices.Contains(b.linears, other[0]) && slices.Contains(b.linears, other[1]) {
					triples = append(triples, [3]string{m, other[0], other[1]})
				}
			}
		}
	}
	switch len(triples) {
	case 0:
		return b.fused(z, r, b.linears)
	case 1:
	default:
		return b.refuse("there are several attentions, %s and %s; one can be understood", triples[0][0], triples[1][0])
	}
	r.q, r.k, r.v = triples[0][0], triples[0][1], triples[0][2]
	qOut, qIn := b.size(r, r.q)
	kOut, kIn := b.size(r, r.k)
	vOut, vIn := b.size(r, r.v)
	r.dim = z.dim
	if r.dim == 0 {
		r.dim = qOut / z.heads
	}
	r.kv = z.kv
	if r.kv == 0 {
		r.kv = kOut / r.dim
	}
	if qIn != z.hidden || kIn != z.hidden || vIn != z.hidden || qOut != z.heads*r.dim || kOut != r.kv*r.dim || vOut != kOut {
		return b.refuse("%s, %s and %s have %d, %d and %d outputs of %d inputs; the config tells of %d heads and %d key-value heads of %d values, hidden size %d",
			r.q, r.k, r.v, qOut, kOut, vOut, qIn, z.heads, r.kv, r.dim, z.hidden)
	}
	return nil
}

// fused finds the linear that holds q, k and v among modules, and refuses what its rows do not tell.
func (b *block) fused(z sizes, r *roles, modules []string) error {
	r.dim, r.kv = z.dim, z.kv
	if r.dim == 0 {
		r.dim = z.hidden / z.heads
	}
	if r.kv == 0 {
		r.kv = z.heads
	}
	want := (z.heads + 2*r.kv) * r.dim
	var fit []string
	for _, m := range modules {
		if out, in := b.size(r, m); out == want && in == z.hidden {
			fit = append(fit, m)
		}
	}
	if len(fit) > 1 { // an MLP of the same size
		fit = slices.DeleteFunc(fit, func(m string) bool { return !hasWord(m, "attn", "attention", "qkv", "query") })
	}
	if len(fit) != 1 {
		return b.refuse("no linears of q, k and v can be told by their names, and none of %s holds all three, [%d, %d]; say which they are with config: {block: {attn.q: …, attn.k: …, attn.v: …}}",
			strings.Join(b.linears, ", "), want, z.hidden)
	}
	r.qkv = fit[0]
	switch {
	case z.qkv == "stacked" || r.kv == 1: // of one key-value head there is one order
	case z.qkv == "by_head" && r.kv == z.heads && !r.transposed:
	case z.qkv == "":
		return b.refuse("%s holds q, k and v, and whether it holds all of q, then k, then v, or the three of each head together cannot be told; say so with config: {qkv_layout: stacked} or {qkv_layout: by_head}", r.qkv)
	default:
		return b.refuse("qkv_layout %s: %s can be stacked, or by_head where there are as many key-value heads as heads and weights are [out, in]", z.qkv, r.qkv)
	}
	return nil
}

// output finds the attention's output among the other linears: the one beside q, else the only one of its shape.
func (b *block) output(z sizes, r *roles, rest []string) (string, error) {
	q := r.q + r.qkv
	beside := slices.DeleteFunc(slices.Clone(rest), func(m string) bool { return parent(m) != parent(q) })
	if len(beside) == 0 { // attention.self.query and attention.output.dense
		top, _, deep := strings.Cut(q, ".")
		beside = slices.DeleteFunc(slices.Clone(rest), func(m string) bool { return !deep || !strings.HasPrefix(m, top+".") })
	}
	fits := func(m string) bool {
		out, in := b.size(r, m)
		return out == z.hidden && in == z.heads*r.dim
	}
	if len(beside) > 1 && parent(q) == "" { // nothing is nested
		beside = slices.DeleteFunc(beside, func(m string) bool { return !fits(m) })
	}
	if len(beside) != 1 || !fits(beside[0]) {
		return "", b.refuse("which linear is the output of the attention of %s cannot be told: beside it there are %s, and [%d, %d] is needed", q, orNothing(beside), z.hidden, z.heads*r.dim)
	}
	return beside[0], nil
}

// routed takes what is left of a layer with experts: the router.
func (b *block) routed(z sizes, r *roles, rest []string) error {
	r.experts = b.experts
	if len(rest) != 1 {
		return b.refuse("beside %d experts there are the linears %s; a router alone can be understood", b.experts, orNothing(rest))
	}
	r.router = rest[0]
	if s := b.shapes[r.router+".weight"]; !slices.Equal(s, []int64{int64(b.experts), int64(z.hidden)}) || b.shapes[r.router+".bias"] != nil || r.transposed {
		return b.refuse("%s %v is taken for the router of %d experts, which is [%d, %d], without a bias", r.router, s, b.experts, b.experts, z.hidden)
	}
	return nil
}

// mlp tells the two or three linears of an MLP apart.
func (b *block) mlp(z sizes, r *roles, modules []string, named func(string) bool) error {
	var in, out []string // by shape; a square one is both
	for _, m := range modules {
		o, i := b.size(r, m)
		if i == z.hidden {
			in = append(in, m)
		}
		if o == z.hidden {
			out = append(out, m)
		}
	}
	if len(out) > 1 { // all are square: the tuple tells, unless their names say otherwise
		out = slices.DeleteFunc(out, func(m string) bool { return !named(m) || slices.Contains(firstLinears, leaf(m)) })
	}
	if len(out) != 1 || len(modules) < 2 || len(modules) > 3 {
		return b.refuse("of the linears %s one is the second of an MLP, with %d outputs, and one or two are the first, with as many inputs; which they are cannot be told", orNothing(modules), z.hidden)
	}
	r.down = out[0]
	_, r.ffn = b.size(r, r.down)
	in = slices.DeleteFunc(in, func(m string) bool { return m == r.down })
	for _, m := range in {
		if o, _ := b.size(r, m); o == 2*r.ffn && len(in) == 1 {
			return b.refuse("%s has twice the outputs that %s takes: gate and input in one tensor, whose order cannot be told", m, r.down)
		} else if o != r.ffn {
			return b.refuse("%s has %d outputs, but %s takes %d", m, o, r.down, r.ffn)
		}
	}
	if len(in) != len(modules)-1 {
		return b.refuse("of the linears %s those before %s have not all %d inputs", strings.Join(modules, ", "), r.down, z.hidden)
	}
	if r.up = in[0]; len(in) == 1 {
		return nil
	}
	if r.gate = b.stated(z, "mlp.gate", in); r.gate == "" {
		r.gate = gateOf(in)
	}
	if r.gate == "" {
		return b.refuse("which one of %s and %s goes through the activation cannot be told from their names; say so with config: {block: {mlp.gate: …}}", in[0], in[1])
	}
	if r.gate == in[0] {
		r.up = in[1]
	}
	return nil
}

// firstLinears are common names of linears that an MLP begins with.
var firstLinears = []string{"up_proj", "gate_proj", "w1", "w3", "fc1", "c_fc", "fc_in", "dense_h_to_4h", "linear1", "lin1", "wi", "wi_0", "wi_1", "0"}

// gateOf is which one of two linears is the gate, "" where their names do not tell: w1 beside w3, wi_0 beside wi_1, gate.
func gateOf(in []string) string {
	for i, m := range in {
		one, other := leaf(m), leaf(in[1-i])
		if strings.Contains(one, "gate") && !strings.Contains(other, "gate") || one == "w1" && other == "w3" || one == "wi_0" && other == "wi_1" {
			return m
		}
	}
	return ""
}

// normsOf tells the norms of the layer apart.
func (b *block) normsOf(z sizes, r *roles) error {
	rest := slices.Clone(b.norms)
	for _, m := range b.norms {
		for _, other := range siblings(m) {
			if slices.Contains(b.norms, other[0]) && r.qNorm == "" {
				r.qNorm, r.kNorm = m, other[0]
			}
		}
	}
	if r.qNorm != "" {
		rest = slices.DeleteFunc(rest, func(m string) bool { return m == r.qNorm || m == r.kNorm })
		q, k := int(b.shapes[r.qNorm+".weight"][0]), int(b.shapes[r.kNorm+".weight"][0])
		r.qkNormOfHead = q == r.dim && k == r.dim
		if !r.qkNormOfHead && (q != z.heads*r.dim || k != r.kv*r.dim) {
			return b.refuse("%s and %s have %d and %d values; those of a head (%d) or of all can be understood", r.qNorm, r.kNorm, q, k, r.dim)
		}
	}
	for _, m := range rest {
		if n := b.shapes[m+".weight"][0]; n != int64(z.hidden) {
			return b.refuse("the norm %s has %d values, not the hidden size %d", m, n, z.hidden)
		}
	}
	switch len(rest) {
	case 2:
	case 1:
		return b.refuse("there is one norm, %s, so attention and MLP may take the same input, side by side; only one after the other can be understood", rest[0])
	default:
		return b.refuse("the norms are %s; one before the attention and one before the MLP can be understood", orNothing(rest))
	}
	r.attnNorm, r.mlpNorm = b.stated(z, "attn.norm", rest), b.stated(z, "mlp.norm", rest)
	if r.attnNorm == "" && r.mlpNorm == "" {
		for _, m := range rest {
			switch placeOfNorm(m) {
			case "attn":
				r.attnNorm = m
			case "mlp":
				r.mlpNorm = m
			}
		}
	}
	if r.attnNorm == "" || r.mlpNorm == "" || r.attnNorm == r.mlpNorm {
		return b.refuse("whether %s and %s stand before the attention and before the MLP, and which one where, cannot be told from their names; say so with config: {block: {attn.norm: …, mlp.norm: …}}", rest[0], rest[1])
	}
	for _, m := range b.norms {
		if r.normBias = b.shapes[m+".bias"] != nil; r.normBias != (b.shapes[r.attnNorm+".bias"] != nil) {
			return b.refuse("the norms %s and %s are of two kinds: one has a bias", m, r.attnNorm)
		}
	}
	return nil
}

// placeOfNorm tells by a norm's name what it stands before: attn, mlp, or "".
func placeOfNorm(module string) string {
	switch {
	case hasWord(module, "post"):
		if hasWord(module, "attn", "attention") && !hasWord(module, "mlp", "ffn", "feedforward", "ff") {
			return "mlp" // post_attention_layernorm: beside an input_layernorm
		}
		return ""
	case hasWord(module, "output", "out", "final"):
		return ""
	case hasWord(module, "mlp", "ffn", "ff", "feedforward", "2"):
		return "mlp"
	case hasWord(module, "attn", "attention", "input", "1"):
		return "attn"
	}
	return ""
}

// biases notes which linears have one: all of a kind or none.
func (b *block) biases(r *roles) error {
	alike := func(modules ...string) (some bool, err error) {
		for _, m := range modules {
			if m == "" {
				continue
			}
			has := b.shapes[m+".bias"] != nil
			if m != modules[0] && modules[0] != "" && has != some {
				return false, b.refuse("one of %s and %s has a bias, the other has none; both or neither can be understood", modules[0], m)
			}
			some = has
		}
		return some, nil
	}
	var errs [3]error
	r.qkvBias, errs[0] = alike(r.q+r.qkv, r.k, r.v)
	r.outBias, errs[1] = alike(r.out)
	r.mlpBias, errs[2] = alike(r.down, r.up, r.gate)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// stated is the module among modules that the user says is canonical's; "": nothing is said.
func (b *block) stated(z sizes, canonical string, modules []string) string {
	name := z.block[canonical]
	if i := slices.IndexFunc(modules, func(m string) bool { return name != "" && ends(m, name) }); i >= 0 {
		return modules[i]
	}
	return ""
}
