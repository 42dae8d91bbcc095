// x += delta where there is one, then y = norm(x)·weight + bias over each of the equal groups of a row.
// Shapes  x, y, delta [rows, groups·cols] of A; weight, bias [cols] f32.
// Order   a thread sums its chunks of 8, ascending, then the threads' sums meet in a butterfly; the number of threads
//         follows from cols alone. Mean first, then squares of what is left of it, all in float32.
// Launch  norm_half: half a warp a group, for cols up to 128, to the bits that a warp gives, whose other half has nothing to
//         add. norm_warp: a warp a group, for cols up to 1024. norm_block: a block a group, any cols.
// Bound   memory. Checked by optest.Norm.
#include "common.cuh"

struct norm_args {
    mat y, x, delta;
    const float *weight, *bias;
    int rows, cols, groups, rms;
    float eps;
    int pad;
};

// Over a block, or over LANES of a warp.
template <int LANES> float sum_over(float v) {
    if constexpr (LANES == 0) return block_sum(v);
#pragma unroll
    for (int o = LANES / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

// The first HELD chunks of a thread stay in registers between the passes; the others are read again.
template <int LANES, int HELD> void norm_group(const norm_args& a, i64 group, int thread, int threads) {
    const i64 row = group / a.groups, first = group % a.groups * a.cols;
    A* x = row_of<A>(a.x, row) + first;
    A* y = row_of<A>(a.y, row) + first;
    const A* delta = a.delta.data == nullptr ? nullptr : row_of<A>(a.delta, row) + first;
    const int chunks = (a.cols + 7) / 8;
    float held[HELD][8], mean = 0, square = 0;
    auto load = [&](float (&v)[8], int c) {
        load8(v, x + c * 8, a.cols - c * 8);
    };
    for (int i = 0, c = thread; c < chunks; i++, c += threads) {
        float v[8];
        load(v, c);
        if (delta != nullptr) {
            float d[8];
            load8(d, delta + c * 8, a.cols - c * 8);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] = rounded<A>(v[j] + d[j]);
            store8(x + c * 8, v, a.cols - c * 8);
        }
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (h == i) {
#pragma unroll
                for (int j = 0; j < 8; j++) held[h][j] = v[j];
            }
#pragma unroll
        for (int j = 0; j < 8; j++) mean += v[j];
    }
    mean = a.rms ? 0.0f : sum_over<LANES>(mean) / a.cols;
    for (int i = 0, c = thread; c < chunks; i++, c += threads) {
        float v[8];
        if (i >= HELD) load(v, c);
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (h == i) {
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] = held[h][j];
            }
        const int n = a.cols - c * 8;
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (j < n) square += (v[j] - mean) * (v[j] - mean);
    }
    const float scale = 1.0f / sqrtf(sum_over<LANES>(square) / a.cols + a.eps);
    for (int i = 0, c = thread; c < chunks; i++, c += threads) {
        const int n = a.cols - c * 8;
        float v[8], w[8], b[8] = {};
        if (i >= HELD) load(v, c);
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (h == i) {
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] = held[h][j];
            }
        load8(w, a.weight + c * 8, n);
        if (a.bias != nullptr) load8(b, a.bias + c * 8, n);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = (v[j] - mean) * scale * w[j] + b[j];
        store8(y + c * 8, v, n);
    }
}

extern "C" __global__ void __launch_bounds__(128) norm_half(const norm_args a) {
    after_earlier();
    const i64 group = (i64)blockIdx.x * 8 + threadIdx.x / 16, groups = (i64)a.rows * a.groups;
    if (group / 2 * 2 >= groups) return; // a warp at a time, whose lanes meet
    norm_args mine = a;
    if (group >= groups) mine.cols = 0; // beside the last group
    norm_group<16, 1>(mine, min(group, groups - 1), threadIdx.x % 16, 16);
}

extern "C" __global__ void __launch_bounds__(128) norm_warp(const norm_args a) {
    after_earlier();
    const i64 group = (i64)blockIdx.x * 4 + threadIdx.x / 32;
    if (group < (i64)a.rows * a.groups) norm_group<32, 4>(a, group, threadIdx.x % 32, 32);
}

extern "C" __global__ void __launch_bounds__(512) norm_block(const norm_args a) {
    after_earlier();
    norm_group<0, 2>(a, blockIdx.x, threadIdx.x, blockDim.x);
}
