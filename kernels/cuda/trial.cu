// What a trial of products (trial.go) multiplies, and whether two results have the same bits.
// Launch  a thread a word of 32 bits, then the one as many threads on. Bound: memory.
#include "common.cuh"

struct fill_args {
    u32* to;
    i64 words;
    i64 row;         // elements of A in a row
    u32 seed, every; // every: what all words become, where it is not 0
};

inline u32 mixed(u32 x) {
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// A value of either sign from 2⁻⁸ to 2³, so that any other order of a sum shows. In every 13th row all are zeros, and in every
// 13th below the least normal number.
inline u32 value_at(const fill_args& a, i64 i) {
    const u32 r = mixed((u32)i ^ mixed((u32)(i >> 32) ^ a.seed)), sign = r >> 31 << 15;
    const int row = (int)(i / a.row % 13);
    if (row == 5) return sign;
    if (row == 9) return sign | (r & 127);
    return sign | from_float<A>(ldexpf(1 + (float)(r & 1023) / 1024, (int)(r >> 10 & 0xfffff) % 11 - 8)).bits;
}

extern "C" __global__ void fill(const fill_args a) {
    after_earlier();
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < a.words; i += (i64)gridDim.x * blockDim.x)
        a.to[i] = a.every != 0 ? a.every : value_at(a, 2 * i) | value_at(a, 2 * i + 1) << 16;
}

struct differ_args {
    const u32 *one, *other;
    i64 words;
    u32* count;
};

extern "C" __global__ void differ(const differ_args a) {
    after_earlier();
    u32 n = 0;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < a.words; i += (i64)gridDim.x * blockDim.x) n += a.one[i] != a.other[i];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) n += __shfl_xor_sync(0xffffffffu, n, o);
    if (threadIdx.x % 32 == 0 && n > 0) atomicAdd(a.count, n);
}
