package cuda

import "github.com/dsbatch/dsbatch/kernels"

const vocabThreads = 1024

type scoreArgs struct {
	logprob, greedy, logits, target mat
	fault                           handle
	vocab, op                       int32
}

// Score gathers log-probabilities of targets.
func (s *Stream) Score(logprob, greedy, logits, target kernels.Tensor, vocab int) {
	const op = opScore
	if s.err == nil && (vocab < 1 || logits.Cols < vocab) {
		s.fail("%s: %d of the columns of logits %v", op, vocab, logits)
	}
	s.check(op, "logits", logits, kernels.F32, anySize, anySize)
	s.check(op, "logprob", logprob, kernels.F32, logits.Rows, 1)
	s.check(op, "greedy", greedy, kernels.I32, logits.Rows, 1)
	s.check(op, "target", target, kernels.I32, logits.Rows, 1)
	if s.err != nil || logits.Rows == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "score.cu"}, "score"}, grid{x: logits.Rows, threads: vocabThreads}, &scoreArgs{
		logprob: matOf(logprob), greedy: matOf(greedy), logits: matOf(logits), target: matOf(target),
		fault: s.dev.fault.address, vocab: int32(vocab), op: int32(op)})
}
