package cuda

import (
	"errors"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// staging is pinned memory that is filled from its beginning between one Sync and the next: what an equal sequence
// of ops writes and reads then lies where it lay before, as a graph needs it.
type staging struct {
	ctx    handle
	chunks []stageChunk
	used   int   // chunks before this one are full
	at     int64 // of the chunk in use
}

type stageChunk struct {
	host    []byte
	address handle
}

const (
	stageSize  = 4 << 20
	stageAlign = 256
)

// take is n bytes of pinned memory.
func (g *staging) take(n int64) ([]byte, error) {
	for ; g.used < len(g.chunks); g.used, g.at = g.used+1, 0 {
		if c := g.chunks[g.used].host; g.at+n <= int64(len(c)) {
			b := c[g.at : g.at+n : g.at+n]
			g.at += (n + stageAlign - 1) &^ (stageAlign - 1)
			return b, nil
		}
	}
	b, a, err := hostAlloc(g.ctx, max(n, stageSize))
	if err != nil {
		return nil, err
	}
	g.chunks = append(g.chunks, stageChunk{b, a})
	return g.take(n)
}

func (g *staging) reset() { g.used, g.at = 0, 0 }

func (g *staging) close() error {
	var errs []error
	for _, c := range g.chunks {
		errs = append(errs, hostFree(g.ctx, c.host))
	}
	g.chunks = nil
	return errors.Join(errs...)
}

// pendingRead is what a Read asked for: src is pinned memory.
type pendingRead struct{ dst, src []byte }

// Write copies src, rows adjacent, to dst. src is staged, so it may be changed at once.
func (s *Stream) Write(dst kernels.Tensor, src []byte) {
	if s.note(rules.Bytes(opWrite.String(), dst, len(src))); s.err != nil || len(src) == 0 {
		return
	}
	b, err := s.stage.take(int64(len(src)))
	if err != nil {
		s.fail("%s: %w", opWrite, err)
		return
	}
	copy(b, src)
	width := uint64(dst.Cols * dst.DType.Size())
	s.copyRows(opWrite, copyRecord{dst: uint64(address(dst)), src: hostAddress(b), srcHost: 1,
		width: width, height: uint64(dst.Rows), dstPitch: pitch(dst), srcPitch: width})
}

// Read copies src to dst, rows adjacent, when Sync is called.
func (s *Stream) Read(dst []byte, src kernels.Tensor) {
	if s.note(rules.Bytes(opRead.String(), src, len(dst))); s.err != nil || len(dst) == 0 {
		return
	}
	b, err := s.stage.take(int64(len(dst)))
	if err != nil {
		s.fail("%s: %w", opRead, err)
		return
	}
	s.reads = append(s.reads, pendingRead{dst, b})
	width := uint64(src.Cols * src.DType.Size())
	s.copyRows(opRead, copyRecord{dst: hostAddress(b), src: uint64(address(src)), dstHost: 1,
		width: width, height: uint64(src.Rows), dstPitch: width, srcPitch: pitch(src)})
}

// pitch is the bytes from one row to the next; those of a single row are its own.
func pitch(t kernels.Tensor) uint64 {
	if t.Rows == 1 {
		return uint64(t.Cols * t.DType.Size())
	}
	return uint64(t.Stride * t.DType.Size())
}

// copyArgs are those of copy.cu, add too.
type copyArgs struct {
	dst, src mat
	rows     int32
	cols     int32
}

// Copy converts among the float types, rounding to nearest even; other types are copied as they are.
func (s *Stream) Copy(dst, src kernels.Tensor) {
	const op = opCopy
	if s.note(rules.Copy(dst, src)); s.err != nil || src.Cols == 0 || src.Rows == 0 {
		return
	}
	if dst.DType == src.DType {
		s.copyRows(op, copyRecord{dst: uint64(address(dst)), src: uint64(address(src)), width: uint64(src.Cols * src.DType.Size()),
			height: uint64(src.Rows), dstPitch: pitch(dst), srcPitch: pitch(src)})
		return
	}
	enqueue(s, op, kernelKey{program{file: "copy.cu", a: dst.DType, b: src.DType}, "copy"}, byChunk(src.Rows, src.Cols),
		&copyArgs{matOf(dst), matOf(src), int32(src.Rows), int32(src.Cols)})
}

// Add: y += x.
func (s *Stream) Add(y, x kernels.Tensor) {
	const op = opAdd
	if s.note(rules.Add(y, x)); s.err != nil || x.Cols == 0 || x.Rows == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "copy.cu", a: y.DType, b: y.DType}, "add"}, byChunk(x.Rows, x.Cols),
		&copyArgs{matOf(y), matOf(x), int32(x.Rows), int32(x.Cols)})
}

// byChunk is a thread for each 8 values of a row.
func byChunk(rows, cols int) grid {
	const threads = 256
	return grid{x: ceilDiv(rows*ceilDiv(cols, 8), threads), threads: threads}
}

// hostAddress is where pinned bytes lie.
func hostAddress(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
