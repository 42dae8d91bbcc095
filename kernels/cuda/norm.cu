// x += delta where there is one, then y = norm(x)·weight + bias over each of the equal groups of a row.
// Shapes  x, y, delta [rows, groups·cols] of A; weight, bias [cols] f32.
// Order   a thread sums its chunks of 8, ascending, then the threads' sums meet in a butterfly; the number of threads
//         follows from cols alone. Mean first, then squares of what is left of it, all in float32.
// Launch  norm_half: half a warp a group, for cols up to 128, to the bits that a warp gives, whose other half has nothing to
//         add. norm_warp: a warp a group, for cols up to 1024. norm_block: a block a group, any cols. What a thread looks at is
//         all on its way before it waits for the first of it, and stays in registers but in rows of more than 8192.
// Bound   memory. Checked by optest.Norm.
#include "norm.cuh"

struct norm_args {
    mat y, x, delta;
    const float *weight, *bias;
    int rows, cols, groups, rms;
    float eps;
    int pad;
};

// Over a block, or over LANES of a warp.
template <int LANES> float sum_over(float v, float (&part)[32]) {
    if constexpr (LANES == 0) {
        return row_sum(v, part);
    } else {
#pragma unroll
        for (int o = LANES / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
        return v;
    }
}

// The first HELD chunks of a thread stay in registers between the passes; the others are read again.
template <int LANES, int HELD> void norm_group(const norm_args& a, i64 group, int thread, int threads) {
    __shared__ float part[2][32]; // of a block's two sums
    const i64 row = a.groups == 1 ? group : group / a.groups, first = (group - row * a.groups) * a.cols; // a division takes a while
    A* x = row_of<A>(a.x, row) + first;
    A* y = row_of<A>(a.y, row) + first;
    const A* delta = a.delta.data == nullptr ? nullptr : row_of<A>(a.delta, row) + first;
    const int chunks = (a.cols + 7) / 8;
    const bool whole = a.cols % 8 == 0 && aligned(x) && aligned(y) && (delta == nullptr || aligned(delta));
    chunk<A> held[HELD], add[HELD];
    float weight[HELD][8];
    auto load = [&](const A* p, int c) { return c < chunks ? load_chunk(p + c * 8, a.cols - c * 8, whole) : chunk<A>{}; };
#pragma unroll
    for (int h = 0; h < HELD; h++) held[h] = load(x, thread + h * threads);
    if (delta != nullptr) {
#pragma unroll
        for (int h = 0; h < HELD; h++) add[h] = load(delta, thread + h * threads);
    }
#pragma unroll
    for (int h = 0; h < HELD; h++) load8(weight[h], a.weight + (thread + h * threads) * 8, a.cols - (thread + h * threads) * 8);
    auto sum = [&](chunk<A>& to, const chunk<A>& d, int c) {
        float v[8], w[8];
        unpack(v, to), unpack(w, d);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] += w[j];
        to = pack<A>(v);
        store_chunk(x + c * 8, to, a.cols - c * 8, whole);
    };
    if (delta != nullptr) {
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (thread + h * threads < chunks) sum(held[h], add[h], thread + h * threads);
        for (int c = thread + HELD * threads; c < chunks; c += threads) {
            chunk<A> v = load(x, c);
            sum(v, load(delta, c), c);
        }
    }
    auto over = [&](auto f) { // chunk, its values, and its weights where they are held
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            float v[8];
            unpack(v, held[h]);
            if (thread + h * threads < chunks) f(thread + h * threads, v, weight[h]);
        }
        for (int c = thread + HELD * threads; c < chunks; c += threads) {
            float v[8], w[8];
            unpack(v, load(x, c));
            load8(w, a.weight + c * 8, a.cols - c * 8);
            f(c, v, w);
        }
    };
    float mean = 0, squares = 0;
    if (!a.rms) {
        over([&](int, float (&v)[8], float (&)[8]) {
#pragma unroll
            for (int j = 0; j < 8; j++) mean += v[j];
        });
        mean = sum_over<LANES>(mean, part[0]) / a.cols;
    }
    over([&](int c, float (&v)[8], float (&)[8]) { squares = add_squares(squares, v, mean, a.cols - c * 8); });
    const float scale = norm_scale(sum_over<LANES>(squares, part[1]), a.cols, a.eps);
    over([&](int c, float (&v)[8], float (&w)[8]) {
        float b[8] = {};
        if (a.bias != nullptr) load8(b, a.bias + c * 8, a.cols - c * 8);
        normalise(v, mean, scale, w, b);
        store_chunk(y + c * 8, pack<A>(v), a.cols - c * 8, whole);
    });
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
