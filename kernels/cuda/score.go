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
	if s.note(rules.Score(logprob, greedy, logits, target, vocab)); s.err != nil || logits.Rows == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "score.cu"}, "score"}, grid{x: logits.Rows, threads: vocabThreads}, &scoreArgs{
		logprob: matOf(logprob), greedy: matOf(greedy), logits: matOf(logits), target: matOf(target),
		fault: s.dev.fault.address, vocab: int32(vocab), op: int32(op)})
}
