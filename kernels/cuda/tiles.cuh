// Which rows a block of a (grouped) matrix product works on.
#pragma once
#include "common.cuh"

struct tile {
    int expert;
    int first; // row of y
    int rows;  // none: nothing to do
};

// The index-th tile of at most size rows, none of which crosses from one expert to the next. All threads of a warp call.
inline tile find_tile(const int* offsets, int experts, int rows, int size, int index) {
    if (offsets == nullptr) return {0, index * size, min(size, rows - index * size)};
    const int lane = threadIdx.x % 32;
    for (int base = 0, e0 = 0; e0 < experts; e0 += 32) {
        const int e = e0 + lane;
        const int from = e < experts ? offsets[e] : 0, to = e < experts ? offsets[e + 1] : 0;
        const int mine = (to - from + size - 1) / size;
        int sum = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const int below = __shfl_up_sync(0xffffffffu, sum, o);
            if (lane >= o) sum += below;
        }
        const u32 over = __ballot_sync(0xffffffffu, base + sum > index);
        if (over != 0) {
            const int at = __ffs(over) - 1;
            const int first = from + (index - base - (sum - mine)) * size;
            tile t = {e, first, min(size, to - first)};
            t.expert = __shfl_sync(0xffffffffu, t.expert, at);
            t.first = __shfl_sync(0xffffffffu, t.first, at);
            t.rows = __shfl_sync(0xffffffffu, t.rows, at);
            return t;
        }
        base += __shfl_sync(0xffffffffu, sum, 31);
    }
    return {0, 0, 0};
}

// How many tiles there are. All threads of a warp call.
inline int count_tiles(const int* offsets, int experts, int rows, int size) {
    if (offsets == nullptr) return (rows + size - 1) / size;
    int mine = 0;
    for (int e = threadIdx.x % 32; e < experts; e += 32) mine += (offsets[e + 1] - offsets[e] + size - 1) / size;
    return warp_sum(mine);
}

// What a linear op does with a sum; the numbers are kernels.Activation's.
inline float activate(int act, float v) {
    switch (act) {
    case 1: return v / (1 + expf(-1.5957691216f * (v + 0.044715f * v * v * v))); // 0.5v(1 + tanh …), exact in its tail too
    case 2: return 0.5f * v * erfcf(-0.70710678f * v);
    case 3: return v / (1 + expf(-v));
    case 4: return v < 0 ? 0.0f : v;
    }
    return v;
}

// 8 sums that are rounded to 16 bits afterwards: SiLU's quotient and exponential by the fast units, two units in the last
// place of float32 off.
inline void activate8(int act, float (&v)[8]) {
    if (act == 0) return;
    if (act == 3) {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = __fdividef(v[j], 1 + __expf(-v[j]));
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = activate(act, v[j]);
}
