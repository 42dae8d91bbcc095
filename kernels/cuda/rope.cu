// Norms and rotates q and k, q in place, and stores k and v in a paged cache.
// Shapes  q [tokens, heads·dim], k, v [tokens, kv·dim] of A; cos, sin [positions, turned/2], weights of norms [dim] or, over
//         rows, [heads·dim] f32; the cache's layer of B: [block][kv head]{K [tokens of a block][dim], V the same; with LATENT
//         none}; slot [tokens] (-1: nowhere).
// Order   norms as norm.cu adds up, rounded to A; then (a, b) becomes (a·cos − b·sin, b·cos + a·sin), rounded to A, then to B.
// Launch  a block a token. store, for any heads, without norms: a warp a head, q's, then k's, then v's; k is turned in place.
//         Where halves of a head lie apart and are multiples of 8, a thread has chunks of 8 values, all on their way before it
//         waits for the first, a lane of its warp the other half of their pairs. store_heads: lanes for a head's chunks, so that
//         these lanes can norm it (store_normed). store_rows: norms over all heads of q, and as many of k.
// Bound   memory: q once each way, k and v once, and the cache. Checked by optest.Store.
#include "norm.cuh"

struct store_args {
    mat q, k, v, cos, sin;
    const int *position, *slot;
    void* cache;
    int* fault;
    int heads, kv_heads, dim, turned, interleaved, block_tokens, slots, positions, op;
    int shift; // 2^shift lanes, at least 4, have a head's chunks
    const float *q_weight, *k_weight; // of root-mean-square norms, or none
    float q_eps, k_eps;
};

#if defined(LATENT)
enum { parts = 1 }; // of a head in the cache
#else
enum { parts = 2 };
#endif

extern "C" __global__ void store(const store_args a) {
    after_earlier();
    const i64 t = blockIdx.x;
    const int slot = a.slot[t], lane = threadIdx.x % 32, half = a.turned / 2;
    if (slot < -1 || slot >= a.slots) {
        if (threadIdx.x == 0) note_fault(a.fault, a.op, slot, (int)t);
        return;
    }
    const float *cos = nullptr, *sin = nullptr;
    if (half > 0) {
        const int place = a.position[t];
        if (place < 0 || place >= a.positions) {
            if (threadIdx.x == 0) note_fault(a.fault, a.op, place, (int)t);
            return;
        }
        cos = row_of<float>(a.cos, place), sin = row_of<float>(a.sin, place);
    }
    const i64 head_size = (i64)a.block_tokens * a.dim;
    for (int h = threadIdx.x / 32; h < a.heads + parts * a.kv_heads; h += blockDim.x / 32) {
        const int kv = h - a.heads, kind = kv < 0 ? 0 : kv < a.kv_heads ? 1 : 2;
        A* x = kind == 0 ? row_of<A>(a.q, t) + h * a.dim
             : kind == 1 ? row_of<A>(a.k, t) + kv * a.dim : row_of<A>(a.v, t) + (kv - a.kv_heads) * a.dim;
        if (kind < 2)
            for (int i = lane; i < half; i += 32) {
                const int m = a.interleaved ? 2 * i : i, n = a.interleaved ? 2 * i + 1 : i + half;
                const float u = to_float(x[m]), w = to_float(x[n]);
                x[m] = from_float<A>(u * cos[i] - w * sin[i]);
                x[n] = from_float<A>(w * cos[i] + u * sin[i]);
            }
        if (kind == 0 || slot < 0) continue;
        __syncwarp();
        const int head = kind == 1 ? kv : kv - a.kv_heads;
        B* to = (B*)a.cache + ((i64)(slot / a.block_tokens) * a.kv_heads + head) * parts * head_size
              + (kind == 2 ? head_size : 0) + (i64)(slot % a.block_tokens) * a.dim;
        for (int i = lane; i < a.dim; i += 32) to[i] = from_float<B>(to_float(x[i]));
    }
}

#if !defined(LATENT)
// Where a token stands and where it goes.
struct place {
    int position, slot;
    i64 at; // of the slot's K in the cache, for head 0

    place(const store_args& a, i64 t) : position(a.turned > 0 ? a.position[t] : 0), slot(a.slot[t]) {}

    // False where there is no such slot or position, which the host is told.
    bool find(const store_args& a) {
        const bool stored = slot >= -1 && slot < a.slots, turned = a.turned == 0 || (position >= 0 && position < a.positions);
        if ((!stored || !turned) && threadIdx.x == 0) note_fault(a.fault, a.op, stored ? position : slot, blockIdx.x);
        const int block = slot / a.block_tokens;
        at = ((i64)block * a.kv_heads * 2 * a.block_tokens + (slot - block * a.block_tokens)) * a.dim;
        return stored && turned;
    }
};

// What all heads of a token share, where each thread finds its chunk's: halves of chunks lie apart, for the banks' sake.
struct by_chunk {
    float4 half[2][32];

    float& operator[](int i) { return ((float*)&half[i / 4 % 2][i / 8])[i % 4]; }
    void read(float (&v)[8], int chunk) const {
        const float4 a = half[0][chunk], b = half[1][chunk];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
};
enum { COS, SIN, MINUS_SIN, Q_WEIGHT, K_WEIGHT, TABLES };

// All threads of the block call it. What a thread brings is all on its way before the first of it is there.
inline void fill(by_chunk* table, const store_args& a, int position, bool norms) {
    const float *cos = row_of<float>(a.cos, position), *sin = row_of<float>(a.sin, position);
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
        const float c = i < a.turned / 2 ? cos[i] : 0, s = i < a.turned / 2 ? sin[i] : 0;
        const float q = norms && a.q_weight != nullptr ? a.q_weight[i] : 0, k = norms && a.k_weight != nullptr ? a.k_weight[i] : 0;
        table[COS][i] = c, table[SIN][i] = s, table[MINUS_SIN][i] = -s;
        if (norms) table[Q_WEIGHT][i] = q, table[K_WEIGHT][i] = k;
    }
}

// How the chunk at a place of a head turns. Of a pair (u, w) the lane that has u makes u·cos − w·sin, the one that has w makes
// u·sin + w·cos.
struct turning {
    const by_chunk *by_u, *by_w;
    int pair, partner; // chunk of angles, and the lane that has the other half
    bool first, any;   // has u; turns at all

    turning(const store_args& a, const by_chunk* table, int chunk) {
        const int pairs = a.turned / 16;
        first = chunk < pairs, any = chunk < 2 * pairs;
        by_u = &table[first ? COS : SIN], by_w = &table[first ? MINUS_SIN : COS];
        pair = first ? chunk : chunk - pairs;
        partner = threadIdx.x % 32 + (!any ? 0 : first ? pairs : -pairs);
    }

    // All lanes of a warp call it; wanted tells whether this one's chunk is of q or k.
    chunk<A> operator()(const chunk<A>& mine, bool wanted) const {
        chunk<A> cu, cw;
#pragma unroll
        for (int i = 0; i < sizeof(mine.word) / 4; i++) {
            const u32 other = __shfl_sync(0xffffffffu, mine.word[i], partner);
            cu.word[i] = first ? mine.word[i] : other, cw.word[i] = first ? other : mine.word[i];
        }
        if (!wanted || !any) return mine;
        float u[8], w[8], bu[8], bw[8];
        unpack(u, cu), unpack(w, cw), by_u->read(bu, pair), by_w->read(bw, pair);
#pragma unroll
        for (int j = 0; j < 8; j++) u[j] = __fmaf_rn(u[j], bu[j], __fmul_rn(w[j], bw[j]));
        return pack<A>(u);
    }
};

template <class T> void put(T* to, const chunk<T>& c) { store_chunk(to, c, 8, true); }
template <class T, class U> void put(T* to, const chunk<U>& c) {
    float v[8];
    unpack(v, c);
    store8(to, v, 8);
}

// To K or V of a head in the cache.
inline void keep(const store_args& a, const place& p, int head, bool value, int chunk_at, const chunk<A>& c) {
    put((B*)a.cache + p.at + (i64)(2 * head + value) * a.block_tokens * a.dim + chunk_at * 8, c);
}

// Rounds what a norm makes of a chunk.
inline chunk<A> normed(const chunk<A>& c, float scale, const float (&weight)[8]) {
    const float none[8] = {};
    float v[8];
    unpack(v, c);
    normalise(v, 0.0f, scale, weight, none);
    return pack<A>(v);
}

template <bool NORMS> void store_by_heads(const store_args& a) {
    enum { HELD = 4 };
    __shared__ by_chunk table[TABLES];
    const i64 t = blockIdx.x;
    const int lanes = 1 << a.shift, mine = threadIdx.x & (lanes - 1), at = mine * 8; // chunk of a head, and its first value
    place to(a, t);
    A *q = row_of<A>(a.q, t), *k = row_of<A>(a.k, t), *v = row_of<A>(a.v, t);
    const bool whole = aligned(q) && aligned(k) && aligned(v);
    const int all = a.heads + 2 * a.kv_heads, step = blockDim.x >> a.shift, first = threadIdx.x >> a.shift;
    const int warp_first = threadIdx.x / 32 * 32 >> a.shift; // head
    const turning turn(a, table, mine);
    for (int base = 0; base + warp_first < all; base += HELD * step) {
        chunk<A> x[HELD];
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int h = base + i * step + first, kv = h - a.heads;
            const A* from = (kv < 0 ? q : kv < a.kv_heads ? k : v) + (kv < 0 ? h : kv < a.kv_heads ? kv : kv - a.kv_heads) * a.dim + at;
            if (h < all && at < a.dim) x[i] = load_chunk(from, 8, whole);
            else x[i] = chunk<A>{};
        }
        if (base == 0) { // now that the first loads are on their way
            if (!to.find(a)) return;
            fill(table, a, to.position, NORMS);
            __syncthreads();
        }
        if constexpr (NORMS) {
            float squares[HELD];
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                float values[8];
                unpack(values, x[i]);
                squares[i] = add_squares(0.0f, values, 0.0f, 8);
                forget(x[i]);
            }
#pragma unroll
            for (int o = 16; o > 0; o >>= 1) {
                if (o >= lanes) continue;
#pragma unroll
                for (int i = 0; i < HELD; i++) squares[i] += __shfl_xor_sync(0xffffffffu, squares[i], o);
            }
            // A scale takes a while, and lanes of a head would make the same four: each makes one, and they look at each other's.
            const int quarter = threadIdx.x % HELD;
            float scale = squares[0];
#pragma unroll
            for (int i = 1; i < HELD; i++) scale = quarter == i ? squares[i] : scale;
            scale = norm_scale(scale, a.dim, base + quarter * step + first < a.heads ? a.q_eps : a.k_eps);
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int kv = base + i * step + first - a.heads;
                const float of_head = __shfl_sync(0xffffffffu, scale, threadIdx.x % 32 / HELD * HELD + i);
                if (at >= a.dim || kv >= a.kv_heads || (kv < 0 ? a.q_weight : a.k_weight) == nullptr) continue;
                float weight[8];
                table[kv < 0 ? Q_WEIGHT : K_WEIGHT].read(weight, mine);
                x[i] = normed(x[i], of_head, weight);
            }
        }
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int h = base + i * step + first, kv = h - a.heads;
            const chunk<A> y = turn(x[i], kv < a.kv_heads);
            if (h >= all || at >= a.dim) continue;
            if (kv < 0) {
                if (NORMS || turn.any) store_chunk(q + h * a.dim + at, y, 8, whole);
            } else if (to.slot >= 0) {
                keep(a, to, kv < a.kv_heads ? kv : kv - a.kv_heads, kv >= a.kv_heads, mine, y);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) store_heads(const store_args a) {
    after_earlier();
    store_by_heads<false>(a);
}

extern "C" __global__ void __launch_bounds__(256, 3) store_normed(const store_args a) {
    after_earlier();
    store_by_heads<true>(a);
}

// Two chunks of q, of k and of v a thread, of rows of up to 8192 values: as norm_block has them, so that sums are the same.
extern "C" __global__ void __launch_bounds__(512) store_rows(const store_args a) {
    after_earlier();
    __shared__ float part[2][32]; // of the sums of q and of k
    __shared__ by_chunk table[MINUS_SIN + 1];
    const i64 t = blockIdx.x;
    place to(a, t);
    A *q = row_of<A>(a.q, t), *k = row_of<A>(a.k, t), *v = row_of<A>(a.v, t);
    const bool whole = aligned(q) && aligned(k) && aligned(v);
    const int cols = a.heads * a.dim, chunks = cols / 8;
    chunk<A> xq[2], xk[2], xv[2];
    float q_weight[2][8], k_weight[2][8];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int c = threadIdx.x + i * blockDim.x, n = (chunks - c) * 8;
        xq[i] = load_chunk(q + c * 8, n, whole && n > 0);
        xk[i] = load_chunk(k + c * 8, n, whole && n > 0);
        xv[i] = load_chunk(v + c * 8, n, whole && n > 0);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int c = threadIdx.x + i * blockDim.x, n = (chunks - c) * 8;
        load8(q_weight[i], a.q_weight + c * 8, n), load8(k_weight[i], a.k_weight + c * 8, n);
    }
    if (!to.find(a)) return; // now that the loads are on their way
    fill(table, a, to.position, false);
    const int mine = threadIdx.x & ((1 << a.shift) - 1);
    const turning turn(a, table, mine);
    float q_squares = 0, k_squares = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float values[8];
        unpack(values, xq[i]), q_squares = add_squares(q_squares, values, 0.0f, 8), forget(xq[i]);
        unpack(values, xk[i]), k_squares = add_squares(k_squares, values, 0.0f, 8), forget(xk[i]);
    }
    q_squares = warp_sum(q_squares), k_squares = warp_sum(k_squares);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) part[0][warp] = q_squares, part[1][warp] = k_squares;
    __syncthreads();
    const bool there = lane < blockDim.x / 32;
    const float q_scale = norm_scale(warp_sum(there ? part[0][lane] : 0.0f), cols, a.q_eps);
    const float k_scale = norm_scale(warp_sum(there ? part[1][lane] : 0.0f), cols, a.k_eps);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int c = threadIdx.x + i * blockDim.x, head = c >> a.shift;
        const chunk<A> yq = turn(normed(xq[i], q_scale, q_weight[i]), true), yk = turn(normed(xk[i], k_scale, k_weight[i]), true);
        if (c >= chunks) continue;
        store_chunk(q + c * 8, yq, 8, whole);
        if (to.slot < 0) continue;
        keep(a, to, head, false, mine, yk), keep(a, to, head, true, mine, xv[i]);
    }
}
#endif
