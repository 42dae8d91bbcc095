// dst = src among float types, rounded to nearest even, and y += x.
// Shapes  dst [rows, cols] of A, src the same of B.
// Launch  a thread a chunk of 8 values. Bound: memory. Checked by optest.Copy and Add.
#include "common.cuh"

struct copy_args {
    mat dst, src;
    int rows, cols;
};

extern "C" __global__ void copy(const copy_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (row >= a.rows) return;
    float v[8];
    load8(v, row_of<B>(a.src, row) + at, a.cols - at);
    store8(row_of<A>(a.dst, row) + at, v, a.cols - at);
}

extern "C" __global__ void add(const copy_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (row >= a.rows) return;
    float x[8], y[8];
    load8(x, row_of<A>(a.src, row) + at, a.cols - at);
    load8(y, row_of<A>(a.dst, row) + at, a.cols - at);
#pragma unroll
    for (int j = 0; j < 8; j++) y[j] += x[j];
    store8(row_of<A>(a.dst, row) + at, y, a.cols - at);
}
