// Paged attention of every token over its sequence's KV, for any types and head sizes, in float32.
// Shapes  as in attention.cuh, the cache's layer of B.
// Order   of a piece: warp w takes positions p with p mod 4 = w, ascending, by online softmax; the four meet in order. Pieces
//         as there. Positions are those of the sequence, so that chunks and neighbours change no bit. With ALIBI a scaled
//         score loses the head's slope for each position up to the token's.
// Launch  x: tokens, y: heads, z: shares of the context of a token that is alone in its sequence, 4 warps; a lane holds
//         dimensions lane, lane+32, …; combine x: sequences, y: heads, a thread a dimension. Checked by optest.Attention.
#include "attention.cuh"

template <int HELD> void attend(const attention_args& a) {
    enum { DIM = HELD * 32, threads = 128, mine_of = (DIM + threads - 1) / threads }; // dimensions of a thread where warps meet
    const i64 t = blockIdx.x;
    const int head = blockIdx.y, part = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32, seq = a.seq[t];
    const int kv_head = head / (a.heads / a.kv_heads);
    int lo, hi;
    span(a, t, seq, lo, hi);
    share mine = {lo / piece_tokens, (hi + piece_tokens - 1) / piece_tokens, -1, 0};
    if (gridDim.z > 1) {
        if (alone(a, seq) == t) mine = share_of(a, seq, lo, hi, part);
        else if (part > 0) return;
    }
    const A* q = row_of<A>(a.q, t) + head * a.dim;
    const int* blocks = row_of<int>(a.blocks, seq);
#if defined(ALIBI)
    const float slope = __fmul_rn(a.slopes[head], 0x1.715476p+0f); // as scale has it: with log2(e)
#endif
    float query[HELD], all[mine_of] = {};
#pragma unroll
    for (int i = 0; i < HELD; i++) query[i] = lane + 32 * i < a.dim ? to_float(q[lane + 32 * i]) : 0.0f;
    __shared__ float tops[4], masses[4], sums[4][DIM];
    row_sum row;
    row.begin();
    auto keep = [&](int slot, int d, float sum, float top, float mass) {
        const i64 at = result_at(a, slot, head);
        a.partials[at * DIM + d] = sum;
        if (d == 0) masses_of(a, DIM)[at] = make_float2(top, mass);
    };
    for (int piece = mine.from; piece < mine.to; piece++) {
        const int from = max(lo, piece * piece_tokens), to = min(hi, (piece + 1) * piece_tokens);
        float sum[HELD] = {}, top = -infinity, mass = 0;
        for (int p = from + ((warp - from) & 3); p < to; p += 4) {
            const int at = cache_row(a, blocks, kv_head, p, lo, hi);
            if (at < 0) break;
#if defined(LATENT)
            const B *k = (const B*)a.cache + (i64)at * a.dim, *v = k + a.dim - a.values;
#else
            const B *k = (const B*)a.cache + (i64)at * a.dim, *v = k + (i64)a.block_tokens * a.dim;
#endif
            float dot = 0;
#pragma unroll
            for (int i = 0; i < HELD; i++)
                if (lane + 32 * i < a.dim) dot = fmaf(query[i], to_float(k[lane + 32 * i]), dot);
            dot = __fmul_rn(warp_sum(dot), a.scale);
#if defined(ALIBI)
            dot = __fmaf_rn(slope, (float)(p - a.position[t]), dot);
#endif
            const float keep = raise(top, dot, 1), weight = lowered(dot, top, 1);
            mass = mass * keep + weight;
#pragma unroll
            for (int i = 0; i < HELD; i++)
                if (lane + 32 * i < values_of(a)) sum[i] = sum[i] * keep + weight * to_float(v[lane + 32 * i]);
        }
        if (lane == 0) tops[warp] = top, masses[warp] = mass;
#pragma unroll
        for (int i = 0; i < HELD; i++) sums[warp][lane + 32 * i] = sum[i];
        __syncthreads();
        top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
        float share_of_warp[4];
        mass = 0;
#pragma unroll
        for (int w = 0; w < 4; w++) share_of_warp[w] = lowered(tops[w], top, 1), mass += masses[w] * share_of_warp[w];
        if (part == 0) row.fold(top, mass, 1);
#pragma unroll
        for (int i = 0; i < mine_of; i++) {
            const int d = threadIdx.x + i * threads;
            if (d >= DIM) continue;
            float y = 0;
#pragma unroll
            for (int w = 0; w < 4; w++) y += sums[w][d] * share_of_warp[w];
            if (part == 0) all[i] = row.folded(all[i], y);
            else keep(mine.slot + piece - mine.from, d, y, top, mass);
        }
        __syncthreads();
    }
    if (part > 0) return;
#if defined(SINKS)
    if (mine.slot < 0) row.sink(sink_of(a, head, 1), 1);
#endif
    A* out = row_of<A>(a.out, t) + head * values_of(a);
#pragma unroll
    for (int i = 0; i < mine_of; i++) {
        const int d = threadIdx.x + i * threads;
        if (mine.slot >= 0 && d < DIM) keep(mine.slot, d, all[i], row.top, row.mass);
        if (mine.slot < 0 && d < values_of(a)) out[d] = from_float<A>(row_sum::result(all[i], row.inverse()));
    }
}

#define KERNELS(dim)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) attention_##dim(const attention_args a) {                        \
        after_earlier();                                                                                               \
        attend<dim / 32>(a);                                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(dim) combine_##dim(const attention_args a) {                          \
        after_earlier();                                                                                               \
        combine_parts<dim>(a, 1);                                                                                      \
    }

KERNELS(64)
KERNELS(128)
KERNELS(256)
KERNELS(512)
#if defined(LATENT)
KERNELS(576)
#endif
