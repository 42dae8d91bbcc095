// Which rows a block of a (grouped) matrix product works on.
#pragma once
#include "common.cuh"

struct tile {
    int expert;
    int first; // row of y
    int rows;  // none: nothing to do
};

// An expert's rows of y, and the number of one of its tiles.
struct share {
    int expert, first, end, number;
};

// Whose the number-th tile is, where each expert has its rows in tiles of at most size, and as many of each of them as times
// says. None: an expert without rows. All threads of a warp call.
inline share find_share(const int* offsets, int experts, int rows, int size, int times, int number) {
    if (offsets == nullptr) return {0, 0, rows, number};
    const int lane = threadIdx.x % 32;
    for (int base = 0, e0 = 0; e0 < experts; e0 += 32) {
        const int e = e0 + lane;
        const int from = e < experts ? offsets[e] : 0, to = e < experts ? offsets[e + 1] : 0;
        const int mine = (to - from + size - 1) / size * times;
        int sum = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const int below = __shfl_up_sync(0xffffffffu, sum, o);
            if (lane >= o) sum += below;
        }
        const u32 over = __ballot_sync(0xffffffffu, base + sum > number);
        if (over != 0) {
            const int at = __ffs(over) - 1, before = base + sum - mine;
            return {e0 + at, __shfl_sync(0xffffffffu, from, at), __shfl_sync(0xffffffffu, to, at), number - __shfl_sync(0xffffffffu, before, at)};
        }
        base += __shfl_sync(0xffffffffu, sum, 31);
    }
    return {0, 0, 0, 0};
}

// The index-th tile of at most size rows, none of which crosses from one expert to the next. All threads of a warp call.
inline tile find_tile(const int* offsets, int experts, int rows, int size, int index) {
    const share s = find_share(offsets, experts, rows, size, 1, index);
    const int first = s.first + s.number * size;
    return {s.expert, first, min(size, s.end - first)};
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

#if defined(SWIGLU_LIMIT)
// A clamped SwiGLU; a NaN stays. Where it is rounded to 16 bits afterwards quotient and exponential are the fast units', as silu's.
inline float within(float v, float low, float high) { return v > high ? high : v < low ? low : v; }
inline float clamped_swiglu(float gate, float up, bool rounded) {
    const float g = within(gate, -infinity, SWIGLU_LIMIT), u = within(up, -SWIGLU_LIMIT, SWIGLU_LIMIT);
    return (rounded ? __fdividef(g, 1 + __expf(-1.702f * g)) : g / (1 + expf(-1.702f * g))) * (u + 1);
}
#endif

// 8 sums that are rounded to 16 bits afterwards: SiLU's quotient and exponential by the fast units, two units in the last
// place of float32 off.
inline float silu(float v) { return __fdividef(v, 1 + __expf(-v)); }
inline void activate8(int act, float (&v)[8]) {
    if (act == 0) return;
    if (act == 3) {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = silu(v[j]);
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = activate(act, v[j]);
}
