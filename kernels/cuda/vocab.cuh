// One block over one row of logits: the argmax and log Σ exp, in an order that vocab alone fixes.
#pragma once
#include "common.cuh"

enum { vocab_threads = 1024 };

// The first in order of falling logits, ties by id, among those after (order, id): packed as order, then ~id.
template <class F> u64 block_first(int vocab, u64 below, F logit) {
    __shared__ u64 part[33];
    u64 best = 0;
    for (int i = threadIdx.x; i < vocab; i += vocab_threads) {
        const u64 key = (u64)order_of(logit(i)) << 32 | (u32)~i;
        if (key < below && key > best) best = key;
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const u64 x = __shfl_xor_sync(0xffffffffu, best, o);
        best = x > best ? x : best;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x < 32) {
        best = part[threadIdx.x];
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) {
            const u64 x = __shfl_xor_sync(0xffffffffu, best, o);
            best = x > best ? x : best;
        }
        if (threadIdx.x == 0) part[32] = best;
    }
    __syncthreads();
    return part[32];
}

inline int id_of(u64 key) { return (int)~(u32)key; }

// log Σ exp(logits), top being the largest.
inline double block_log_sum(const float* logits, int vocab, float top) {
    double sum = 0;
    for (int i = threadIdx.x; i < vocab; i += vocab_threads) sum += expf(logits[i] - top);
    return (double)top + log(block_sum(sum));
}
