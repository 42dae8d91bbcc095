// y[t] = Σ_c weight[t, c]·out[place[t, c]], the last step of an MoE layer; and its mix with a dense branch: PR-MoE's by the
// softmax of two coefficients, a shared expert's by the sigmoid of one.
// Shapes  out [slots, cols], y [tokens, cols] of A; place [tokens·k] (-1: dropped), weight [tokens, k] f32.
// Order   c ascending in float32, rounded once: the bits do not depend on batch, grid, ep or all-to-all.
// Launch  a thread a chunk of 8 values; gathers, so no atomics. Bound: memory, about (k+1)·cols values a token.
// Checked by optest.Combine and Mix.
#include "common.cuh"

struct combine_args {
    mat y, out, weight;
    const int* place;
    int* fault;
    int tokens, cols, k, slots, op, pad;
};

extern "C" __global__ void combine(const combine_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, t = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (t >= a.tokens) return;
    float sum[8] = {};
    for (int c = 0; c < a.k; c++) {
        const int slot = a.place[t * a.k + c];
        if (slot < 0) continue;
        if (slot >= a.slots) return note_fault(a.fault, a.op, slot, (int)t);
        const float w = row_of<float>(a.weight, t)[c];
        float v[8];
        load8(v, row_of<A>(a.out, slot) + at, a.cols - at);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] += w * v[j];
    }
    store8(row_of<A>(a.y, t) + at, sum, a.cols - at);
}

struct mix_args {
    mat y, moe, mlp, coef;
    int tokens, cols;
};

// y[t] = moe[t]·c₀ + mlp[t]·c₁ for a thread's chunk.
inline void mix_chunk(const mix_args& a, i64 t, int at, float c0, float c1) {
    float moe[8], mlp[8];
    load8(moe, row_of<A>(a.moe, t) + at, a.cols - at);
    load8(mlp, row_of<A>(a.mlp, t) + at, a.cols - at);
#pragma unroll
    for (int j = 0; j < 8; j++) moe[j] = moe[j] * c0 + mlp[j] * c1;
    store8(row_of<A>(a.y, t) + at, moe, a.cols - at);
}

extern "C" __global__ void mix(const mix_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, t = i / chunks;
    if (t >= a.tokens) return;
    const float* coef = row_of<float>(a.coef, t);
    const float e = expf(-fabsf(coef[1] - coef[0])), big = 1 / (1 + e), small = e / (1 + e);
    mix_chunk(a, t, (int)(i % chunks) * 8, coef[1] > coef[0] ? small : big, coef[1] > coef[0] ? big : small);
}

extern "C" __global__ void mix_shared(const mix_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, t = i / chunks;
    if (t >= a.tokens) return;
    const float coef = row_of<float>(a.coef, t)[0], e = expf(-fabsf(coef));
    mix_chunk(a, t, (int)(i % chunks) * 8, 1, (coef > 0 ? 1 : e) / (1 + e));
}
