// Package plan predicts a job's rate by a roofline: what the machine can do at most, and what the job needs at least.
//
// A forecast (package engine) says where everything lies; a machine what its memory and its arithmetic can do; the rate
// follows. All of it is a bound that no job beats, not a promise that one reaches it.
package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/kernels"
)

// Machine is what a rank runs on.
type Machine struct {
	Name   string
	Memory int64   // bytes that a rank can take; 0: this host's, shared
	Read   float64 // bytes of memory a second
	// FLOPs a second for weights of a type, dense.
	FLOPs map[kernels.DType]float64
	Link  float64 // bytes a second to ranks of the same node
	Wire  float64 // to other nodes
	Bus   float64 // bytes a second from the host's memory to a GPU; 0: there is none between
	GPU   bool
	Node  int    // ranks on a node
	From  string // where these figures are from
}

const gib = 1 << 30

// gpus are the data sheets' figures (SXM modules, dense), the links modelled: 300 GB/s useful of
// NVLink, 50 GB/s a GPU between nodes, 50 of 64 GB/s of PCIe 5 and half as much of PCIe 4. A GiB of each GPU is the driver's.
var gpus = map[string]Machine{
	"h100": sheet("h100", 79, 3.35e12, 67e12, 989e12, 1979e12, 300e9, 50e9),
	"h200": sheet("h200", 139, 4.8e12, 67e12, 989e12, 1979e12, 300e9, 50e9),
	"a100": sheet("a100", 79, 2.039e12, 19.5e12, 312e12, 624e12, 200e9, 25e9),
}

func sheet(name string, memory int64, read, f32, f16, i8, link, bus float64) Machine {
	return Machine{Name: name, Memory: (memory - 1) * gib, Read: read, Link: link, Wire: 50e9, Bus: bus, GPU: true, Node: 8, From: "data sheet",
		FLOPs: map[kernels.DType]float64{kernels.F32: f32, kernels.BF16: f16, kernels.F16: f16, kernels.I8: i8}}
}

// GPU is the machine of that name.
func GPU(name string) (Machine, error) {
	if m, ok := gpus[name]; ok {
		return m, nil
	}
	return Machine{}, fmt.Errorf("--gpu %q is not known; use %s or cpu", name, strings.Join(slices.Sorted(maps.Keys(gpus)), ", "))
}

// Measured is the machine with what was measured on it, where weights are of type d, in place of what its data sheet
// says; other types are then not known. bus 0 was not.
func (m Machine) Measured(d kernels.DType, flops, read, bus float64) Machine {
	m.From, m.Read, m.FLOPs = "measured", read, map[kernels.DType]float64{d: flops}
	if bus > 0 {
		m.Bus = bus
	}
	return m
}
