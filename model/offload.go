package model

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// newRing makes the ring that the options ask for.
func (l *loader) newRing() (err error) {
	o := l.options
	if o.Offload == 0 {
		return nil
	}
	d, can := l.device.(kernels.RingDevice)
	if !can {
		return fmt.Errorf("%s computes with weights in its own memory", l.device.Name())
	}
	l.offloads = offloaded(l.model.layerBytes, o.Offload)
	l.model.ring, err = d.NewRing(buffersOf(o.Buffers))
	return err
}

func buffersOf(buffers int) int { return max(buffers, kernels.LeastBuffers) }

// offload moves a layer that was just loaded to the host's memory, if it is one of those, and returns its group of the ring.
func (l *loader) offload(layer int) (group int) {
	if l.err != nil || l.model.ring == nil || !l.offloads[layer-l.stage.From] {
		return -1
	}
	l.err = l.model.ring.Hold(fmt.Sprintf("layer %d", layer), l.packed)
	l.groups++
	return l.groups - 1
}

// offloaded tells which of the layers here are offloaded, if so many are: large ones, of half of the largest's bytes at least, and
// small ones only beside all of these, since a buffer that a small layer is in is no room for a large one. Of either kind those
// that lie evenly apart: what computes between them is time for the bus.
func offloaded(bytes []int64, count int) []bool {
	is := make([]bool, len(bytes))
	for _, kind := range [][]int{large(bytes, true), large(bytes, false)} {
		n := min(count, len(kind))
		for i, layer := range kind {
			is[layer] = (i+1)*n/len(kind) > i*n/len(kind)
		}
		count -= n
	}
	return is
}

// large are the layers of half of the largest's bytes at least, or the others.
func large(bytes []int64, are bool) (layers []int) {
	var most int64
	for _, n := range bytes {
		most = max(most, n)
	}
	for i, n := range bytes {
		if (2*n >= most) == are {
			layers = append(layers, i)
		}
	}
	return layers
}

// Large is how many of the layers here are worth offloading before any other.
func (m *Model) Large() int { return len(large(m.layerBytes, true)) }

// Offloaded is the bytes of the weights on the device and on the host, if so many of the layers here are offloaded, through so
// many buffers (0: the least). A surveyed model tells it without the padding of tiles.
func (m *Model) Offloaded(layers, buffers int) (device, host int64) {
	var largest int64
	is := offloaded(m.layerBytes, layers)
	for i, n := range m.layerBytes {
		if is[i] {
			host, largest = host+n, max(largest, n)
		}
	}
	return m.bytes - host + int64(min(layers, buffersOf(buffers)))*largest, host
}

// Brought is what the offloaded layers have brought to the device so far.
func (m *Model) Brought() kernels.RingTraffic {
	if m.ring == nil {
		return kernels.RingTraffic{}
	}
	return m.ring.Traffic()
}
