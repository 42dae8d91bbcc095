package model

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// positions is the table of position embeddings [window, hidden], of position 0 first. Where tokens have types, whose embedding is added to
// every token's as its position's is, the first type's is added to the table: a row is one text, all of one type.
func (l *loader) positions(d kernels.DType) kernels.Tensor {
	c := l.config
	name, rows := l.policy.Tensors.name("positions", 0, 0), shard.Range{From: c.FirstRow, To: c.FirstRow + c.Window}
	table := l.named(name, window{rows.To, c.Hidden, rows, l.slicing.hidden})
	if c.Types == 0 {
		return l.put(name, d, table)
	}
	l.named(l.policy.Tensors.name("types", 0, 0), window{c.Types, c.Hidden, shard.Range{To: 1}, l.slicing.hidden})
	if l.err == nil && !l.surveying {
		table.DType, table.Data = kernels.F32, l.sums(l.held[len(l.held)-2], l.held[len(l.held)-1])
	}
	return l.put(name, d, table)
}

// sums adds a row to each row of a table, in float32.
func (l *loader) sums(table, row ckpt.Tensor) []byte {
	rows, err := table.Floats()
	if err != nil {
		l.fail(err)
	}
	add, err := row.Floats()
	if err != nil {
		l.fail(err)
	}
	sums := make([]byte, 0, 4*len(rows))
	for i, x := range rows {
		sums = binary.LittleEndian.AppendUint32(sums, math.Float32bits(x+add[i%len(add)]))
	}
	return sums
}
