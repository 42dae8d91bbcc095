package model

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// Place is the row of the table of position embeddings for a token at a position, from 0, and of a type.
func (c *Config) Place(position int, kind int32) int32 { return kind*int32(c.Window) + int32(position) }

// positions is the table of position embeddings [window, hidden], of position 0 first. Where tokens have types, whose
// embedding is added to every token's as its position's is, there is such a table for each type, one below the other, with
// the type's embedding added: [types·window, hidden].
func (l *loader) positions(d kernels.DType) kernels.Tensor {
	c := l.config
	name, rows := l.policy.Tensors.name("positions", 0, 0), shard.Range{From: c.FirstRow, To: c.FirstRow + c.Window}
	table := l.named(name, window{rows.To, c.Hidden, rows, l.slicing.hidden})
	if c.Types == 0 {
		return l.put(name, d, table)
	}
	l.named(l.policy.Tensors.name("types", 0, 0), window{c.Types, c.Hidden, shard.Range{To: c.Types}, l.slicing.hidden})
	table.Rows *= c.Types
	if l.err == nil && !l.surveying {
		table.DType, table.Data = kernels.F32, l.sums(l.held[len(l.held)-2], l.held[len(l.held)-1], c.Types)
	}
	return l.put(name, d, table)
}

// sums adds each of some rows to each row of a table, in float32, a table a row.
func (l *loader) sums(table, kinds ckpt.Tensor, n int) []byte {
	rows, err := table.Floats()
	if err != nil {
		l.fail(err)
	}
	add, err := kinds.Floats()
	if err != nil {
		l.fail(err)
	}
	sums, width := make([]byte, 0, 4*n*len(rows)), len(add)/n
	for kind := range n {
		for i, x := range rows {
			sums = binary.LittleEndian.AppendUint32(sums, math.Float32bits(x+add[kind*width+i%width]))
		}
	}
	return sums
}
