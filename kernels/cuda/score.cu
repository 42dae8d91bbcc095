// The log-probability of a target for each row of logits, and whether the target is the argmax, ties to the lower id.
// Shapes  logits [rows, >= vocab] f32; target, greedy [rows, 1] int; logprob [rows, 1] f32.
// Order   a thread sums groups of 16 ids, ascending, in float64; threads meet in a butterfly. Vocab alone fixes it.
// Launch  a block of 1024 a row. Bound: memory, one pass over a row. Checked by optest.Score.
#include "vocab.cuh"

struct score_args {
    mat logprob, greedy, logits, target;
    int* fault;
    int vocab, op;
};

extern "C" __global__ void __launch_bounds__(1024) score(const score_args a) {
    after_earlier();
    const i64 row = blockIdx.x;
    const float* logits = row_of<float>(a.logits, row);
    const int target = *row_of<int>(a.target, row);
    const row_summary known = summarise(logits, a.vocab, a.vocab);
    if (threadIdx.x > 0) return;
    if (target < 0 || target >= a.vocab) return note_fault(a.fault, a.op, target, (int)row);
    *row_of<float>(a.logprob, row) = (float)((double)logits[target] - known.log_sum);
    *row_of<int>(a.greedy, row) = id_of(known.best) == target;
}
