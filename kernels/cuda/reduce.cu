// y[t] = Σ_p parts[p·rows + t], or y +=: the partial results of a linear op whose inputs are cut.
// Shapes  y [rows, cols] of A, parts [count·rows, cols] f32, count < 2^LEVELS.
// Order   a tree of neighbours in float32 (reduce.cuh), rounded once.
// Launch  a thread a chunk of 8 values. Bound: memory. Checked by optest.Reduce.
#include "reduce.cuh"

struct reduce_args {
    mat y, parts;
    int rows, cols, count, adds_to_y;
};

extern "C" __global__ void reduce(const reduce_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, t = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (t >= a.rows) return;
    float sum[8];
    reduce8<7>(sum, a.count, [&](float (&v)[8], int p) { load8(v, row_of<float>(a.parts, (i64)p * a.rows + t) + at, a.cols - at); });
    store_sum(row_of<A>(a.y, t) + at, sum, a.cols - at, a.adds_to_y);
}
