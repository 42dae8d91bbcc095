// Chunks of 8 values of a row as they lie in memory, so that all of a thread's are on their way before the first is looked
// at, and the arithmetic of a norm, which is the same to the bit wherever a norm is part of another op.
#pragma once
#include "common.cuh"

template <class T> struct chunk { u32 word[2 * sizeof(T)]; };

// Of p's first n values, zeros after them. whole: there are 8, and p is aligned.
template <class T> chunk<T> load_chunk(const T* p, int n, bool whole) {
    union { uint4 quarter[sizeof(T) / 2]; T each[8]; chunk<T> all; } x;
    if (whole) {
#pragma unroll
        for (int i = 0; i < sizeof(T) / 2; i++) x.quarter[i] = ((const uint4*)p)[i];
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) x.each[i] = i < n ? p[i] : from_float<T>(0.0f);
    }
    return x.all;
}

template <class T> void store_chunk(T* p, const chunk<T>& c, int n, bool whole) {
    union { uint4 quarter[sizeof(T) / 2]; T each[8]; chunk<T> all; } x;
    x.all = c;
    if (whole) {
#pragma unroll
        for (int i = 0; i < sizeof(T) / 2; i++) ((uint4*)p)[i] = x.quarter[i];
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < n) p[i] = x.each[i];
    }
}

template <class T> void unpack(float (&v)[8], const chunk<T>& c) {
    union { T each[8]; chunk<T> all; } x;
    x.all = c;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = to_float(x.each[i]);
}

// Has the compiler unpack c anew where it is needed next, so that its values take no registers until then.
template <class T> void forget(chunk<T>& c) {
#pragma unroll
    for (int i = 0; i < 2 * sizeof(T); i++) asm volatile("" : "+r"(c.word[i]));
}

template <class T> chunk<T> pack(const float (&v)[8]) {
    chunk<T> c;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 8; i++) c.word[i] = __float_as_uint(v[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) c.word[i] = pair_of<T>(v[2 * i], v[2 * i + 1]);
    }
    return c;
}

// The squares of a chunk's first n values, less the mean, added to a sum.
inline float add_squares(float sum, const float (&v)[8], float mean, int n) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float d = v[j] - mean;
        if (j < n) sum = __fmaf_rn(d, d, sum);
    }
    return sum;
}

inline float norm_scale(float squares, int cols, float eps) { return 1.0f / sqrtf(squares / cols + eps); }

inline void normalise(float (&v)[8], float mean, float scale, const float (&weight)[8], const float (&bias)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = __fmaf_rn(__fmul_rn(v[j] - mean, scale), weight[j], bias[j]);
}

// v over a block, to the bits of block_sum, with one meeting: each sum of a row has a part of its own.
inline float row_sum(float v, float (&part)[32]) {
    const int lane = threadIdx.x % 32;
    v = warp_sum(v);
    if (lane == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? part[lane] : 0.0f);
}
