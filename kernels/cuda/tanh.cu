// y = tanh(y), in place.
// Shapes  y [rows, cols] of A.
// Order   each value by itself, in float32, rounded once.
// Launch  a thread a chunk of 8 values. Bound: memory. Checked by optest.Tanh.
#include "common.cuh"

struct tanh_args {
    mat y;
    int rows, cols;
};

extern "C" __global__ void hyperbolic_tangent(const tanh_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (row >= a.rows) return;
    float v[8];
    load8(v, row_of<A>(a.y, row) + at, a.cols - at);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = tanhf(v[j]);
    store8(row_of<A>(a.y, row) + at, v, a.cols - at);
}
