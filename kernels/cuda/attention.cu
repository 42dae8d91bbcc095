// Paged attention of every token over its sequence's KV, for any types and head sizes, in float32.
// Shapes  out, q [tokens, heads·dim] of A; the cache's layer of B: [block][kv head]{K [tokens of a block][dim], V the same};
//         position, seq [tokens]; blocks [seqs, most blocks]; context [seqs] or none (causal).
// Order   warp w takes positions p with p mod 4 = w, ascending, by online softmax; the four meet in order. Positions are
//         those of the sequence, so that chunks and neighbours change no bit.
// Launch  x: tokens, y: heads, 4 warps; a lane holds dimensions lane, lane+32, …. Checked by optest.Attention.
#include "common.cuh"

struct attention_args {
    mat out, q, blocks;
    const void* cache;
    const int *position, *seq, *context;
    int* fault;
    int tokens, heads, kv_heads, dim, block_tokens, window;
    float scale;
    int op, cache_blocks, pad;
};

template <int HELD> void attend(const attention_args& a) {
    const i64 t = blockIdx.x;
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, seq = a.seq[t];
    const int last = a.position[t] + 1, hi = a.context != nullptr ? a.context[seq] : last, lo = a.window > 0 ? max(0, last - a.window) : 0;
    const int kv_head = head / (a.heads / a.kv_heads);
    const A* q = row_of<A>(a.q, t) + head * a.dim;
    const int* blocks = row_of<int>(a.blocks, seq);
    float query[HELD], sum[HELD] = {}, top = -infinity, mass = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) query[i] = lane + 32 * i < a.dim ? to_float(q[lane + 32 * i]) : 0.0f;
    for (int p = lo + ((warp - lo) & 3); p < hi; p += 4) {
        const int block = p / a.block_tokens < a.blocks.stride ? blocks[p / a.block_tokens] : -1;
        if (block < 0 || block >= a.cache_blocks) {
            if (lane == 0) note_fault(a.fault, a.op, block, p);
            break;
        }
        const B* k = (const B*)a.cache + ((i64)block * a.kv_heads + kv_head) * 2 * a.block_tokens * a.dim + (i64)(p % a.block_tokens) * a.dim;
        const B* v = k + (i64)a.block_tokens * a.dim;
        float dot = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (lane + 32 * i < a.dim) dot = fmaf(query[i], to_float(k[lane + 32 * i]), dot);
        dot = warp_sum(dot) * a.scale;
        const float higher = fmaxf(top, dot), keep = expf(top - higher), weight = expf(dot - higher);
        top = higher;
        mass = mass * keep + weight;
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (lane + 32 * i < a.dim) sum[i] = sum[i] * keep + weight * to_float(v[lane + 32 * i]);
    }
    __shared__ float tops[4], masses[4], sums[4][HELD * 32];
    if (lane == 0) tops[warp] = top, masses[warp] = mass;
#pragma unroll
    for (int i = 0; i < HELD; i++) sums[warp][lane + 32 * i] = sum[i];
    __syncthreads();
    top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
    A* out = row_of<A>(a.out, t) + head * a.dim;
    for (int d = threadIdx.x; d < a.dim; d += blockDim.x) {
        float all = 0, y = 0;
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float keep = tops[w] == -infinity ? 0.0f : expf(tops[w] - top);
            all += masses[w] * keep;
            y += sums[w][d] * keep;
        }
        out[d] = from_float<A>(hi > lo ? y / all : 0.0f);
    }
}

#define KERNEL(name, held)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) name(const attention_args a) { after_earlier(), attend<held>(a); }

KERNEL(attention_64, 2)
KERNEL(attention_128, 4)
KERNEL(attention_256, 8)
KERNEL(attention_512, 16)
