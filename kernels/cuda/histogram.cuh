// Weights of a row's tokens, e^-distance from its most probable one, summed by distance, and where such a sum ends.
// They are integers: 23 bits and more of each, relative to its bin, and 2⁴² units for the largest token. Their sums are
// exact, so that neither the order of atomics nor the number of rows can change a bit.
#pragma once
#include "vocab.cuh"

enum { bins = 2048 }; // the last one is for tokens of no weight, which is not counted

// Distances are cut into bins of 1/64, the middle of bin b being b/64; a NaN goes to the last one.
inline int bin_of(float distance) {
    return __float_as_uint(fmaf(fminf(distance, (bins - 1) / 64.0f), 64.0f, 8388608.0f)) & (2 * bins - 1);
}

// Weights in bin b are whole numbers of 2^-(23+k), k rising with b as e^-distance falls, and 2⁴² is the largest token's
// weight in units. k is at most 46: what is below a unit is dropped from the sum of a bin, not from its tokens.
inline int octaves(int b) { return b * 1477 >> 16; } // ⌊b/64 · log₂e⌋
inline u32 weight_of(float distance, int b) {
    return __float2uint_rn(expf(-distance) * __uint_as_float((u32)(127 + 23 + octaves(b)) << 23));
}
inline u64 units_of(u64 weight, int b) {
    const int shift = 19 - octaves(b);
    return shift >= 0 ? weight << shift : weight >> -shift;
}
// The least weight is one more than this which has more than so many units.
inline u64 weight_below(u64 units, int b) {
    const int shift = 19 - octaves(b);
    return shift >= 0 ? units >> shift : ((units + 1) << -shift) - 1;
}

// Sums of numbers below 2³², by an atomic a number and a carry now and then.
template <int N> struct histogram {
    u32 low[N], high[N], count[N];

    void clear() {
        __syncthreads();
        for (int i = threadIdx.x; i < N; i += vocab_threads) low[i] = high[i] = count[i] = 0;
        __syncthreads();
    }
    void add(int i, u32 weight, bool counted) {
        if (atomicAdd(&low[i], weight) > ~weight) atomicAdd(&high[i], 1u);
        if (counted) atomicAdd(&count[i], 1u);
    }
    u64 weight(int i) const { return (u64)high[i] << 32 | low[i]; }
};

// What comes before a thread's number in thread order, and the sum of all.
inline u64 block_before(u64 mine, u64& all) {
    __shared__ u64 part[33];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 sum = mine;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u64 x = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += x;
    }
    __syncthreads();
    if (lane == 31) part[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        const u64 whole = part[lane];
        u64 upto = whole;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const u64 x = __shfl_up_sync(0xffffffffu, upto, o);
            if (lane >= o) upto += x;
        }
        __syncwarp();
        part[lane] = upto - whole;
        if (lane == 31) part[32] = upto;
    }
    __syncthreads();
    all = part[32];
    return part[warp] + sum - mine;
}

// Where a cumulative sum first exceeds a target: the number of the bin, part or token, and what comes before it.
struct place {
    int at;
    u64 units, count;
};

// What comes before each bin; two bins a thread.
struct cumulative {
    const histogram<bins>& h;
    u64 units, all;
    u32 count;

    cumulative(const histogram<bins>& h, bool counted) : h(h), count(0) {
        const int b = threadIdx.x * 2;
        u64 total;
        units = block_before(units_of(h.weight(b), b) + units_of(h.weight(b + 1), b + 1), all);
        if (counted) count = block_before(h.count[b] + h.count[b + 1], total);
    }
    // The last bin where no sum exceeds the target.
    place find(bool by_count, u64 target) const {
        __shared__ place found;
        __syncthreads();
        if (threadIdx.x == 0) found.at = bins - 1;
        __syncthreads();
        u64 u = units, c = count;
#pragma unroll
        for (int b = threadIdx.x * 2; b < threadIdx.x * 2 + 2; b++) {
            const u64 mine = units_of(h.weight(b), b), before = by_count ? c : u, own = by_count ? h.count[b] : mine;
            if (before <= target && target < before + own) found = {b, u, c};
            u += mine, c += h.count[b];
        }
        __syncthreads();
        return found;
    }
    // What comes before a bin.
    u64 before(int b) const {
        __shared__ u64 found;
        __syncthreads();
        if (threadIdx.x == b / 2) found = units + (b % 2 ? units_of(h.weight(b - 1), b - 1) : 0);
        __syncthreads();
        return found;
    }
};
