// The k experts of the largest logits of a token, ties to the lower index, and their weights.
// Shapes  logits [tokens, experts] f32; expert [tokens, k] int, weight [tokens, k] f32.
// Order   a lane takes experts lane, lane+32, …, ascending, in float64; lanes meet in a butterfly.
// Launch  a warp a token, 4 a block. A NaN is below everything. Checked by optest.Gate.
#include "common.cuh"

struct gate_args {
    mat logits, expert, weight;
    int tokens, experts, k, sigmoid, renormalise;
    float scale;
};

// Whether a (at i) goes before b (at j): larger, NaN last, ties to the lower index.
inline bool before(float a, int i, float b, int j) {
    const bool x = a != a, y = b != b;
    if (x || y) return x == y ? i < j : y;
    return a > b || (a == b && i < j);
}

extern "C" __global__ void __launch_bounds__(128) gate(const gate_args a) {
    after_earlier();
    const i64 t = (i64)blockIdx.x * 4 + threadIdx.x / 32;
    if (t >= a.tokens) return;
    const int lane = threadIdx.x % 32;
    const float* logits = row_of<float>(a.logits, t);
    int* expert = row_of<int>(a.expert, t);
    float* weight = row_of<float>(a.weight, t);
    float last = 0, top = 0;
    int last_at = -1;
    for (int c = 0; c < a.k; c++) { // the first in order of those after the last one
        float best = 0;
        int best_at = -1;
        for (int e = lane; e < a.experts; e += 32) {
            const float x = logits[e];
            if (last_at >= 0 && !before(last, last_at, x, e)) continue;
            if (best_at < 0 || before(x, e, best, best_at)) best = x, best_at = e;
        }
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) {
            const float x = __shfl_xor_sync(0xffffffffu, best, o);
            const int at = __shfl_xor_sync(0xffffffffu, best_at, o);
            if (at >= 0 && (best_at < 0 || before(x, at, best, best_at))) best = x, best_at = at;
        }
        last = best, last_at = best_at;
        if (c == 0) top = best;
        if (lane == 0) expert[c] = best_at, weight[c] = best;
    }
    double sum = 1;
    if (!a.sigmoid) {
        double part = 0;
        for (int e = lane; e < a.experts; e += 32) part += expf(logits[e] - top);
        sum = warp_sum(part);
    }
    if (lane > 0) return;
    float chosen = 0;
    for (int c = 0; c < a.k; c++) {
        const float x = weight[c];
        const float w = a.sigmoid ? 1 / (1 + expf(-x)) : (float)(expf(x - top) / sum);
        weight[c] = w;
        chosen += w;
    }
    chosen = fmaxf(chosen, 1.1920929e-07f); // as DeepSpeed bounds it
    for (int c = 0; c < a.k; c++) weight[c] = (a.renormalise ? weight[c] / chosen : weight[c]) * a.scale;
}
