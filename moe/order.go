package moe

import (
	"encoding/binary"

	"github.com/dsbatch/dsbatch/kernels"
)

// order sorts rows that lie by source and then by expert, by expert and then by source.
type order struct {
	rows, local                       int
	hostOffsets, hostIndex, hostPlace []byte
	// offsets [1, local+1] is the first place of each expert, index [1, rows] the row that each place takes, inverse
	// [1, rows] the place where each row goes.
	offsets, index, inverse kernels.Tensor
}

// sort finds the order of rows[source][local expert] rows, and returns how many they are.
func (o *order) sort(rows [][]int, local int) int {
	start := make([]int, len(rows)) // of the source's rows for the expert at hand
	o.rows, o.local = 0, local
	for source, counts := range rows {
		start[source] = o.rows
		for _, n := range counts {
			o.rows += n
		}
	}
	o.hostOffsets, o.hostIndex = o.hostOffsets[:0], o.hostIndex[:0]
	o.hostPlace = append(o.hostPlace[:0], make([]byte, 4*o.rows)...)
	place := uint32(0)
	for e := range local {
		o.hostOffsets = binary.LittleEndian.AppendUint32(o.hostOffsets, place)
		for source := range rows {
			for range rows[source][e] {
				o.hostIndex = binary.LittleEndian.AppendUint32(o.hostIndex, uint32(start[source]))
				binary.LittleEndian.PutUint32(o.hostPlace[4*start[source]:], place)
				start[source]++
				place++
			}
		}
	}
	o.hostOffsets = binary.LittleEndian.AppendUint32(o.hostOffsets, place)
	return o.rows
}

// write puts the order on the device.
func (o *order) write(b *exchangeBuffers, s kernels.Stream) error {
	for _, t := range []struct {
		what string
		to   *kernels.Tensor
		host []byte
		cols int
	}{
		{"offsets of arriving rows", &o.offsets, o.hostOffsets, o.local + 1},
		{"order of arriving rows", &o.index, o.hostIndex, o.rows},
		{"places of arriving rows", &o.inverse, o.hostPlace, o.rows},
	} {
		to, err := b.room(t.to, t.what, kernels.I32, 1, t.cols)
		if err != nil {
			return err
		}
		s.Write(to, t.host)
	}
	return nil
}

func (o *order) tensors() []*kernels.Tensor {
	return []*kernels.Tensor{&o.offsets, &o.index, &o.inverse}
}
