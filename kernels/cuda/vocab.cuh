// One block over one row of logits: how it is read, its argmax and log Σ exp, in an order that the columns alone fix.
#pragma once
#include "common.cuh"

enum { vocab_threads = 1024, vocab_group = 16 }; // logits that a thread has under way at once, in pieces of 4

// The id of a group's i-th logit, the group's first one being given: ascending in i.
inline int id_in_group(int first, int i) { return first + i / 4 * (vocab_threads * 4) + i % 4; }

// Calls use(first, v) for all groups of a thread, ascending; −∞ stands for what is beyond n. Which thread has which id does
// not depend on alignment, which another row of the same logits may not have. Not all threads come equally often.
template <class F> void each_group(const float* x, int n, F use) {
    const bool wide = aligned(x);
    for (int first = threadIdx.x * 4; first < n; first += vocab_threads * vocab_group) {
        float v[vocab_group];
#pragma unroll
        for (int p = 0; p < vocab_group; p += 4) {
            const int at = id_in_group(first, p);
            if (wide && at + 4 <= n) {
                const float4 four = *(const float4*)(x + at);
                v[p] = four.x, v[p + 1] = four.y, v[p + 2] = four.z, v[p + 3] = four.w;
            } else {
#pragma unroll
                for (int j = 0; j < 4; j++) v[p + j] = at + j < n ? x[at + j] : -infinity;
            }
        }
        use(first, v);
    }
}

// A token's place in the order of falling logits, ties by id: the larger, the earlier.
inline u64 key_of(float logit, int id) { return (u64)order_of(logit) << 32 | (u32)~id; }
inline int id_of(u64 key) { return (int)~(u32)key; }

inline u64 block_max(u64 v) {
    __shared__ u64 part[33];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, o));
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = part[threadIdx.x];
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, o));
        if (threadIdx.x == 0) part[32] = v;
    }
    __syncthreads();
    return part[32];
}

// The first of a thread's logits in that order, a NaN being last.
struct first_of {
    float logit = -infinity;
    int id = -1;

    void meet(int first, const float (&v)[vocab_group], float most, int n) {
        if (!(most > logit) && id >= 0) return;
#pragma unroll
        for (int i = 0; i < vocab_group; i++)
            if (id_in_group(first, i) < n && (v[i] > logit || (id < 0 && v[i] == v[i]))) logit = v[i], id = id_in_group(first, i);
    }
    u64 key() const { return id < 0 ? (u64)~0u : key_of(logit, id); } // of id 0 where all are NaN
};

inline float most_of(const float (&v)[vocab_group]) {
    float most = v[0];
#pragma unroll
    for (int i = 1; i < vocab_group; i++) most = fmaxf(most, v[i]);
    return most;
}

struct row_summary {
    u64 best;       // the first of the vocabulary
    double log_sum; // log Σ exp over all columns
};

// Reads a row once: a thread's sum is relative to the largest logit that it has met.
inline row_summary summarise(const float* logits, int vocab, int columns) {
    first_of best;
    float top = -infinity;
    double sum = 0;
    each_group(logits, columns, [&](int first, const float (&v)[vocab_group]) {
        const float most = most_of(v);
        best.meet(first, v, most, vocab);
        if (most > top) sum *= expf(top - most), top = most;
        const float from = top == -infinity ? 0.0f : top;
#pragma unroll
        for (int i = 0; i < vocab_group; i += 4)
            sum += ((double)expf(v[i] - from) + expf(v[i + 1] - from)) + ((double)expf(v[i + 2] - from) + expf(v[i + 3] - from));
    });
    const u64 first = block_max(best.key());
    // Orders of floats compare as they do; the largest of all columns may be beyond the vocabulary.
    const u32 most = (u32)(block_max((u64)order_of(top)));
    const float all = __uint_as_float(most & 0x80000000u ? most & 0x7fffffffu : ~most);
    sum = block_sum(top == -infinity ? sum : sum * expf(top - all)); // what met nothing but −∞ has a sum of 0, or a NaN
    return {first, (double)all + log(sum)};
}
