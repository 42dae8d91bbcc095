// y[t] = Σ_p parts[p·rows + t], or y +=: the partial results of a linear op whose inputs are cut.
// Shapes  y [rows, cols] of A, parts [count·rows, cols] f32, count < 2^LEVELS.
// Order   a tree of neighbours in float32, rounded once: the sum of the last 2^l parts waits in level[l] where bit l of the
//         number of parts so far is set, as in a binary counter.
// Launch  a thread a chunk of 8 values. Bound: memory. Checked by optest.Reduce.
#include "common.cuh"

struct reduce_args {
    mat y, parts;
    int rows, cols, count, adds_to_y;
};

extern "C" __global__ void reduce(const reduce_args a) {
    after_earlier();
    constexpr int LEVELS = 7;
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, t = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (t >= a.rows) return;
    float level[LEVELS][8], sum[8];
    for (int p = 0; p < a.count; p++) {
        load8(sum, row_of<float>(a.parts, (i64)p * a.rows + t) + at, a.cols - at);
#pragma unroll
        for (int l = 0; l < LEVELS; l++) { // registers are named, not indexed: all levels are passed
            const int below = (1 << l) - 1;
            if ((p & below) != below) continue;
            const bool full = p >> l & 1;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (full) sum[j] = level[l][j] + sum[j];
                else level[l][j] = sum[j];
            }
        }
    }
    bool some = false;
#pragma unroll
    for (int l = 0; l < LEVELS; l++) {
        if (!(a.count >> l & 1)) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] = some ? level[l][j] + sum[j] : level[l][j];
        some = true;
    }
    A* y = row_of<A>(a.y, t) + at;
    if (a.adds_to_y) {
        float old[8];
        load8(old, y, a.cols - at);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] = old[j] + sum[j];
    }
    store8(y, sum, a.cols - at);
}
