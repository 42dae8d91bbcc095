package ckpt

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Report is what a checkpoint holds. Parameters are numbers that were trained: buffers of positions and masks do not
// count. Active are those that one token's way through the model uses.
type Report struct {
	Format     string
	Config     string // where the facts come from
	Files      int
	FileBytes  int64 // on disk
	Tensors    int
	Bytes      int64 // of tensors
	Parameters int64
	Active     int64 // 0 where there are experts and nothing says how many a token takes
	TopK       int   // experts a token takes; 0: no experts, or not said
	Layers     []LayerReport
	DTypes     []DTypeReport // most bytes first
}

// LayerReport is one layer.
type LayerReport struct {
	Layer      int
	Experts    int // 0: a dense layer
	Parameters int64
	Active     int64 // as Report.Active
	Bytes      int64
}

// DTypeReport is what there is of one element type.
type DTypeReport struct {
	DType   DType
	Tensors int
	Bytes   int64
}

var (
	layerNumber  = regexp.MustCompile(`(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.`)
	expertNumber = regexp.MustCompile(`(?:\.|deepspeed_)experts\.(\d+)\.`)
	expertStack  = regexp.MustCompile(`\.experts\.[a-z_]+$|\.experts\.[a-z_]+\.weight$`) // [experts, …]
	buffer       = regexp.MustCompile(`\.(?:attn|attention|attention\.self)\.(?:bias|masked_bias)$|\.inv_freq$|_scales$`)
)

// Inspect looks at every tensor's name, type and shape; it opens files that were left for later, and reads no weights.
func Inspect(c *Checkpoint) (Report, error) {
	r := Report{Format: c.Format, Config: c.config.Source, Tensors: len(c.names)}
	for _, f := range c.Files() {
		r.Files++
		r.FileBytes += f.Size
	}
	for _, key := range []string{"num_experts_per_tok", "num_experts_per_token", "topk", "moe_topk", "moe_top_k"} {
		if k, ok := c.config.Values[key].(float64); ok && r.TopK == 0 {
			r.TopK = int(k)
		}
	}
	type share struct{ common, experts, bytes, count int64 }
	layers := map[int]*share{-1: {}}
	types := map[DType]*DTypeReport{}
	for _, name := range c.names {
		t := c.tensors[name]
		if _, _, err := t.src.pieces(); err != nil {
			return r, err
		}
		dtype, size := t.stored()
		if types[dtype] == nil {
			types[dtype] = &DTypeReport{DType: dtype}
		}
		types[dtype].Tensors++
		types[dtype].Bytes += size
		r.Bytes += size
		layer := -1
		if m := layerNumber.FindStringSubmatch(name); m != nil {
			layer = atoi(m[1])
		}
		if layers[layer] == nil {
			layers[layer] = &share{}
		}
		s := layers[layer]
		s.bytes += size
		if m := expertNumber.FindStringSubmatch(name); m != nil {
			s.experts += parameters(t)
			s.count = max(s.count, int64(atoi(m[1]))+1)
		} else if expertStack.MatchString(name) && len(t.Shape) > 1 {
			s.experts += parameters(t)
			s.count = max(s.count, t.Shape[0])
		} else {
			s.common += parameters(t)
		}
	}
	known, sparse := true, false
	for layer, s := range layers {
		l := LayerReport{Layer: layer, Experts: int(s.count), Parameters: s.common + s.experts, Active: s.common, Bytes: s.bytes}
		if s.count > 0 {
			l.Active += s.experts / s.count * min(int64(r.TopK), s.count)
			sparse, known = true, r.TopK > 0
		}
		r.Parameters += l.Parameters
		r.Active += l.Active
		if layer >= 0 {
			r.Layers = append(r.Layers, l)
		}
	}
	if !known {
		r.Active = 0
	}
	if !sparse {
		r.TopK = 0
	}
	slices.SortFunc(r.Layers, func(a, b LayerReport) int { return a.Layer - b.Layer })
	for _, d := range types {
		r.DTypes = append(r.DTypes, *d)
	}
	slices.SortFunc(r.DTypes, func(a, b DTypeReport) int {
		if a.Bytes != b.Bytes {
			return int(min(max(b.Bytes-a.Bytes, -1), 1))
		}
		return int(a.DType) - int(b.DType)
	})
	return r, nil
}

// parameters is how many trained numbers a tensor holds: 4-bit ones lie two to a byte.
func parameters(t Tensor) int64 {
	switch {
	case buffer.MatchString(t.Name):
		return 0
	case t.DType.Float(), t.DType == I8:
		return t.Elements()
	case t.DType == U8 && strings.HasSuffix(t.Name, "_blocks"):
		return 2 * t.Elements()
	}
	return 0
}

// Experts lists the experts of each layer that has any, in the order of the layers: 4, 4, 8.
func (r Report) Experts() string {
	var counts []string
	for _, l := range r.Layers {
		if l.Experts > 0 {
			counts = append(counts, strconv.Itoa(l.Experts))
		}
	}
	return strings.Join(counts, ", ")
}
