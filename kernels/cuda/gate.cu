// The k experts of the largest logits of a token, ties to the lower index, and their weights.
// Shapes  logits [tokens, experts] f32; expert [tokens, k] int, weight [tokens, k] f32.
// Order   a lane takes experts lane, lane+32, …, ascending, in float64; lanes meet in a butterfly.
// Launch  a warp a token, 4 a block. A NaN is below everything. gate_few, for up to 256 experts and 32 choices, holds the logits
//         in registers and has a lane a choice. Checked by optest.Gate.
#include "common.cuh"

struct gate_args {
    mat logits, expert, weight;
    int tokens, experts, k, sigmoid, renormalise;
    float scale;
    const float* bias; // gate_limited: [experts], or none; the gate's groups, those that count, and by how many best experts
    int groups, top_groups, group_best, pad;
};

// Whether a (at i) goes before b (at j): larger, NaN last, ties to the lower index.
inline bool before(float a, int i, float b, int j) {
    const bool x = a != a, y = b != b;
    if (x || y) return x == y ? i < j : y;
    return a > b || (a == b && i < j);
}

// The first in order of the experts after the last one, of all lanes; by tells what counts of expert e, and whether it does.
template <class F> void next_best(float& last, int& last_at, int experts, F by) {
    float best = 0;
    int best_at = -1;
    for (int e = threadIdx.x % 32; e < experts; e += 32) {
        float x;
        if (!by(e, x) || (last_at >= 0 && !before(last, last_at, x, e))) continue;
        if (best_at < 0 || before(x, e, best, best_at)) best = x, best_at = e;
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const float x = __shfl_xor_sync(0xffffffffu, best, o);
        const int at = __shfl_xor_sync(0xffffffffu, best_at, o);
        if (at >= 0 && (best_at < 0 || before(x, at, best, best_at))) best = x, best_at = at;
    }
    last = best, last_at = best_at;
}

// The weights of the k chosen, from their logits; top is the largest logit of all, for a softmax.
inline void finish(const gate_args& a, const float* logits, float* weight, float top) {
    const int lane = threadIdx.x % 32;
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
        next_best(last, last_at, a.experts, [&](int e, float& x) { return x = logits[e], true; });
        if (c == 0) top = last;
        if (lane == 0) expert[c] = last_at, weight[c] = last;
    }
    finish(a, logits, weight, top);
}

extern "C" __global__ void __launch_bounds__(128) gate_few(const gate_args a) {
    after_earlier();
    enum { EACH = 8 }; // logits of a lane
    const i64 t = (i64)blockIdx.x * 4 + threadIdx.x / 32;
    if (t >= a.tokens) return;
    const u32 all = 0xffffffffu;
    const int lane = threadIdx.x % 32;
    const float* logits = row_of<float>(a.logits, t);
    float x[EACH];
    u32 order[EACH]; // 0: not there, or chosen
#pragma unroll
    for (int i = 0; i < EACH; i++) x[i] = i * 32 + lane < a.experts ? logits[i * 32 + lane] : 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) order[i] = i * 32 + lane < a.experts ? order_of(x[i]) + 1 : 0;
    int mine = 0; // expert of this lane's choice
    for (int c = 0; c < a.k; c++) {
        u32 best = order[0], at = lane;
#pragma unroll
        for (int i = 1; i < EACH; i++)
            if (order[i] > best) best = order[i], at = i * 32 + lane;
        const u32 top = __reduce_max_sync(all, best), e = __reduce_min_sync(all, best == top ? at : all);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (i * 32 + lane == e) order[i] = 0;
        if (c == lane) mine = e;
    }
    const float chosen = logits[mine], top = __shfl_sync(all, chosen, 0);
    double sum = 1;
    if (!a.sigmoid) {
        double part = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (i * 32 + lane < a.experts) part += expf(x[i] - top);
        sum = warp_sum(part);
    }
    float w = a.sigmoid ? 1 / (1 + expf(-chosen)) : (float)(expf(chosen - top) / sum), kept = 0;
    for (int c = 0; c < a.k; c++) kept += __shfl_sync(all, w, c);
    if (lane >= a.k) return;
    if (a.renormalise) w /= fmaxf(kept, 1.1920929e-07f); // as DeepSpeed bounds it
    row_of<int>(a.expert, t)[lane] = mine, row_of<float>(a.weight, t)[lane] = w * a.scale;
}

// The same where experts are chosen by sigmoid(logit) + bias, or out of the best groups only. Shared: of each warp what its
// experts are chosen by, then its groups' sums, then whether a group counts.
extern "C" __global__ void __launch_bounds__(128) gate_limited(const gate_args a) {
    after_earlier();
    extern __shared__ float shared[];
    const i64 t = (i64)blockIdx.x * 4 + threadIdx.x / 32;
    if (t >= a.tokens) return;
    const int lane = threadIdx.x % 32, each = a.experts / a.groups;
    const float* logits = row_of<float>(a.logits, t);
    int* expert = row_of<int>(a.expert, t);
    float* weight = row_of<float>(a.weight, t);
    float *by = shared + threadIdx.x / 32 * (a.experts + 2 * a.groups), *sums = by + a.experts, *counts = sums + a.groups;
    for (int e = lane; e < a.experts; e += 32) {
        const float x = logits[e];
        by[e] = !a.sigmoid ? x : 1 / (1 + expf(-x)) + (a.bias != nullptr ? a.bias[e] : 0.0f);
    }
    __syncwarp();
    for (int g = lane; g < a.groups; g += 32) {
        int first = -1, second = -1; // experts
        for (int e = g * each; a.groups > 1 && e < (g + 1) * each; e++) {
            if (first < 0 || before(by[e], e, by[first], first)) second = first, first = e;
            else if (second < 0 || before(by[e], e, by[second], second)) second = e;
        }
        if (first >= 0) sums[g] = a.group_best == 2 ? by[first] + by[second] : by[first];
    }
    __syncwarp();
    for (int g = lane; g < a.groups; g += 32) {
        int ahead = 0;
        for (int h = 0; a.groups > 1 && h < a.groups; h++) ahead += h != g && before(sums[h], h, sums[g], g);
        counts[g] = a.groups == 1 || ahead < a.top_groups;
    }
    __syncwarp();
    float last = 0, top = 0;
    int last_at = -1;
    for (int c = 0; c < a.k; c++) {
        next_best(last, last_at, a.experts, [&](int e, float& x) { return x = by[e], counts[e / each] != 0; });
        const float x = logits[last_at];
        if (c == 0) top = x; // a softmax's largest of all: that is in the best group
        if (lane == 0) expert[c] = last_at, weight[c] = x;
    }
    finish(a, logits, weight, top);
}
