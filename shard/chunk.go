// Package shard says who owns what: rows of the data set, experts, slices of tensors. Pure arithmetic: every rank
// computes the same answer from the same numbers, so nothing has to be sent.
package shard

// The default chunk is sized for a job of many replicas: chunksEach of them for each of replicas replicas, so that
// the last ones even out the load, but not so small that a part file costs more than its rows.
const (
	replicas   = 64
	chunksEach = 16
	leastRows  = 64
)

// ChunkRows is the default number of rows of a chunk in a data set of rows rows. It follows from the number of rows
// alone, so that the part files of a job do not depend on where it ran.
func ChunkRows(rows int64) int64 {
	return max(leastRows, (rows+replicas*chunksEach-1)/(replicas*chunksEach))
}

// Chunk is a run of consecutive rows of one file, committed together as one part.
type Chunk struct {
	Index int   // among all chunks of the job, from 0
	File  int   // among the files of the data set, from 0
	From  int64 // first row, counted in the file
	To    int64 // one past the last
	First int64 // global number of row From
}

// Rows is the number of rows of the chunk.
func (c Chunk) Rows() int64 { return c.To - c.From }

// Chunks cuts files of the given numbers of rows into chunks of size rows; a file's last chunk may be shorter.
func Chunks(fileRows []int64, size int64) []Chunk {
	var chunks []Chunk
	var first int64
	for file, rows := range fileRows {
		for from := int64(0); from < rows; from += size {
			to := min(rows, from+size)
			chunks = append(chunks, Chunk{Index: len(chunks), File: file, From: from, To: to, First: first + from})
		}
		first += rows
	}
	return chunks
}
