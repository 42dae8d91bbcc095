//go:build !cgo

package cpu

import (
	"errors"

	"github.com/dsbatch/dsbatch/kernels"
)

// Without C there are no panels: the reference is the only level.

type panelWeights struct{}

func (*panelWeights) bytes() int64 { return 0 }
func (*panelWeights) free()        {}

type panelGemm struct{}

func (*panelGemm) free() {}

func packPanels(*Device, string, kernels.WeightSpec, *weights) (*panelWeights, error) {
	return nil, errors.ErrUnsupported
}

func (s *Stream) runPanels(*gemm) { s.fail("%w", errors.ErrUnsupported) }

// Ceilings are unknown without C.
type Ceilings struct{}

// NewCeilings measures nothing without C.
func (d *Device) NewCeilings() (*Ceilings, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (*Ceilings) Close() {}

// Products is unknown.
func (*Ceilings) Products(kernels.DType) float64 { return 0 }

// Read is unknown.
func (*Ceilings) Read() float64 { return 0 }

// PeakProducts is unknown without C.
func (d *Device) PeakProducts(kernels.DType) float64 { return 0 }

// PeakRead is unknown without C.
func (d *Device) PeakRead() (float64, error) { return 0, errors.ErrUnsupported }
