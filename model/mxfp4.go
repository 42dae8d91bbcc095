package model

import (
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// Weights of a checkpoint in MXFP4 are packed as they lie there where a model runs in bfloat16, which holds each of their
// numbers: products have the same bits either way. Widened are those of a rank whose cut falls inside a group of inputs that
// share a scale, those that an op takes together with others in floats, and those of scales that no real model has.

// asStored packs matrices in MXFP4 as they are where all are, and else as BF16.
func asStored(s kernels.WeightSpec) kernels.WeightSpec {
	in, all := 0, 0
	for _, x := range s.Experts {
		all += len(x.Parts)
		for _, m := range x.Parts {
			if m.DType == kernels.MXFP4 {
				in++
			}
		}
	}
	switch {
	case in > 0 && in == all && s.DType == kernels.BF16:
		s.DType = kernels.MXFP4
	case in > 0:
		return inFloats(s, s.DType)
	}
	return s
}

// inFloats is s with its matrices in MXFP4 widened, to be packed as d.
func inFloats(s kernels.WeightSpec, d kernels.DType) kernels.WeightSpec {
	s.DType, s.Experts = d, slices.Clone(s.Experts)
	for e, x := range s.Experts {
		x.Parts = slices.Clone(x.Parts)
		for i, m := range x.Parts {
			if m.DType == kernels.MXFP4 {
				x.Parts[i] = m.Widened()
			}
		}
		s.Experts[e] = x
	}
	return s
}

// widened tells, of the first, that weights in MXFP4 are not packed as they are.
func (l *loader) widened(what, why string) {
	if l.options.Widened != nil && !l.told {
		l.options.Widened(what, why)
	}
	l.told = true
}
