package cuda

import "github.com/dsbatch/dsbatch/kernels"

type sampleArgs struct {
	logits, temperature, topK, topP, minP, penalty, u, ban, token, logprob, topID, topLogprob mat
	seenStart, seen, banned, fault                                                            handle
	vocab, columns, top, op, bannedIDs                                                        int32
}

// Sample draws a token for each row of logits.
func (s *Stream) Sample(logits kernels.Tensor, p kernels.Sampling) {
	const op = opSample
	n := logits.Rows
	s.note(rules.Sample(logits, p))
	if !p.SeenStart.None() {
		s.note(rules.Vector(op.String(), "seen start", p.SeenStart, n+1))
	}
	if s.err != nil || n == 0 {
		return
	}
	a := sampleArgs{logits: matOf(logits), temperature: matOf(p.Temperature), topK: matOf(p.TopK), topP: matOf(p.TopP),
		minP: matOf(p.MinP), penalty: matOf(p.Penalty), u: matOf(p.U), token: matOf(p.Token), logprob: matOf(p.Logprob),
		fault: s.dev.fault.address, vocab: int32(p.Vocab), columns: int32(logits.Cols), top: int32(p.Top), op: int32(op)}
	if p.Top > 0 {
		a.topID, a.topLogprob = matOf(p.TopID), matOf(p.TopLogprob)
	}
	if !p.Ban.None() {
		a.ban, a.banned, a.bannedIDs = matOf(p.Ban), address(p.Banned), int32(p.Banned.Cols)
	}
	shared := 0
	if !p.SeenStart.None() && !p.Seen.None() {
		s.note(rules.Vector(op.String(), "seen", p.Seen, 0))
		a.seenStart, a.seen = address(p.SeenStart), address(p.Seen)
		shared = 16 + 4*ceilDiv(p.Vocab, 32)
	}
	const most = 128 << 10 // a million ids
	if shared > most {
		s.fail("%s: a vocabulary of %d ids is too large for a repetition penalty on a GPU", op, p.Vocab)
	}
	if s.err != nil {
		return
	}
	enqueue(s, op, kernelKey{program{file: "sample.cu"}, "sample"}, grid{x: n, threads: vocabThreads, shared: shared}, &a)
}
