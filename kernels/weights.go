package kernels

import "fmt"

// Matrix is a host matrix as a checkpoint has it: row major, little-endian, rows adjacent.
type Matrix struct {
	DType DType
	Rows  int
	Cols  int
	Data  []byte // Rows*Cols*DType.Size() bytes
	// Scales of MXFP4 [Rows, Cols/32], a byte each; Data is then [Rows, Cols/2], a byte two inputs, the first one below.
	Scales []byte
}

// WeightSpec describes the weights of one linear op, or of the same linear op of all experts on this rank.
type WeightSpec struct {
	// DType is what it is packed as: F32, BF16, F16 or I8, which is quantised symmetrically, a scale an output row and group; or
	// MXFP4, which all parts then are: products have the bits that they have of the same numbers as BF16.
	DType   DType
	Group   int // I8: inputs that share a scale; 0: the whole row
	Experts []Linear
	Gated   bool // Parts are gate then up, [ffn, in] each: the op gives act(gate)·up, [rows, ffn]
}

// Linear is one matrix [out, in], given as parts stacked along out (q, k and v, say), and its bias.
type Linear struct {
	Parts      []Matrix // [out_i, in]; Transposed: [in, out_i], as GPT-2's Conv1D has them
	Bias       []Matrix // none, or one for each part: [1, out_i]
	Transposed bool
}

// Weights are packed weights: y = x·Wᵀ + b for each of Experts matrices [Out, In].
type Weights interface {
	DType() DType
	Experts() int
	Out() int // columns of the op's result (ffn where gated)
	In() int
	Bytes() int64
	Free()
}

// Shape is the shape [rows, in] that the matrices of s have in common, rows being those of all their parts (gate's and
// up's where gated). Matrices that do not fit one another or their bytes are an error that names the first of them.
func (s WeightSpec) Shape() (rows, in int, err error) {
	switch s.DType {
	case F32, BF16, F16, I8, MXFP4:
	default:
		return 0, 0, fmt.Errorf("weights of type %v; use fp32, bf16, fp16, int8 or mxfp4", s.DType)
	}
	if len(s.Experts) == 0 {
		return 0, 0, fmt.Errorf("no matrix")
	}
	for e, l := range s.Experts {
		r, k, err := l.shape(s.DType == MXFP4)
		switch {
		case err != nil:
		case s.Gated && (len(l.Parts) != 2 || l.Outputs(0) != l.Outputs(1)):
			err = fmt.Errorf("gated weights are two matrices of one shape, gate and up")
		case e > 0 && (r != rows || k != in):
			err = fmt.Errorf("[%d, %d] where matrix 0 is [%d, %d]", r, k, rows, in)
		case (len(l.Bias) > 0) != (len(s.Experts[0].Bias) > 0):
			err = fmt.Errorf("some matrices have a bias and some have none")
		}
		if err != nil {
			return 0, 0, fmt.Errorf("matrix %d of %d: %w", e, len(s.Experts), err)
		}
		rows, in = r, k
	}
	return rows, in, nil
}

// Outputs is the number of outputs of a part, out_i.
func (l Linear) Outputs(part int) int {
	if l.Transposed {
		return l.Parts[part].Cols
	}
	return l.Parts[part].Rows
}

// shape is the shape [rows, in] of the stacked parts, which are MXFP4 or floats.
func (l Linear) shape(mxfp4 bool) (rows, in int, err error) {
	if len(l.Parts) == 0 {
		return 0, 0, fmt.Errorf("no part")
	}
	if len(l.Bias) != 0 && len(l.Bias) != len(l.Parts) {
		return 0, 0, fmt.Errorf("%d biases for %d parts", len(l.Bias), len(l.Parts))
	}
	for i, m := range l.Parts {
		check := m.check
		if mxfp4 {
			check = m.checkMXFP4
		}
		if err := check(); err != nil {
			return 0, 0, fmt.Errorf("part %d: %w", i, err)
		}
		if mxfp4 && l.Transposed {
			return 0, 0, fmt.Errorf("part %d: mxfp4 is [out, in]; transpose it, or widen it", i)
		}
		k := m.Cols
		if l.Transposed {
			k = m.Rows
		}
		if i > 0 && k != in {
			return 0, 0, fmt.Errorf("part %d takes %d inputs where part 0 takes %d", i, k, in)
		}
		in = k
		rows += l.Outputs(i)
	}
	for i, b := range l.Bias {
		if err := b.check(); err != nil {
			return 0, 0, fmt.Errorf("bias %d: %w", i, err)
		}
		if b.Rows*b.Cols != l.Outputs(i) {
			return 0, 0, fmt.Errorf("bias %d has %d values for %d outputs", i, b.Rows*b.Cols, l.Outputs(i))
		}
	}
	return rows, in, nil
}

func (m Matrix) check() error {
	if !m.DType.IsFloat() {
		return fmt.Errorf("a matrix of type %v; use fp32, bf16 or fp16", m.DType)
	}
	if m.Rows < 0 || m.Cols < 0 || int64(len(m.Data)) != int64(m.Rows)*int64(m.Cols)*int64(m.DType.Size()) {
		return fmt.Errorf("%v [%d, %d] in %d bytes", m.DType, m.Rows, m.Cols, len(m.Data))
	}
	return nil
}
