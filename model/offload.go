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
	l.model.ring, err = d.NewRing(buffersOf(o.Buffers))
	return err
}

func buffersOf(buffers int) int { return max(buffers, kernels.LeastBuffers) }

// offload moves a layer that was just loaded to the host's memory, if it is one of those, and returns its group of the ring.
func (l *loader) offload(layer int) (group int) {
	if l.err != nil || l.model.ring == nil || !offloaded(layer-l.stage.From, l.stage.Len(), l.options.Offload) {
		return -1
	}
	l.err = l.model.ring.Hold(fmt.Sprintf("layer %d", layer), l.packed)
	l.groups++
	return l.groups - 1
}

// offloaded tells whether a layer is one of so many that are offloaded, evenly apart: what computes between them is time for
// the bus.
func offloaded(layer, layers, offload int) bool {
	return (layer+1)*offload/layers > layer*offload/layers
}

// Offloaded is the bytes of the weights on the device and on the host, if so many of the layers here are offloaded, through so
// many buffers (0: the least). A surveyed model tells it without the padding of tiles.
func (m *Model) Offloaded(layers, buffers int) (device, host int64) {
	var largest int64
	for i, n := range m.layerBytes {
		if offloaded(i, len(m.layerBytes), layers) {
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
