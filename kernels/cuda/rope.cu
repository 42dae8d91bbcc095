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
    int lanes; // of a head's chunks, a power of two
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
// Where a token goes and what it is turned by.
struct place {
    int slot;
    const float *cos, *sin;
};

// False where its slot or its position is none that there is, which the host is told.
inline bool find_place(const store_args& a, i64 t, place& at) {
    at.slot = a.slot[t];
    if (at.slot < -1 || at.slot >= a.slots) {
        if (threadIdx.x == 0) note_fault(a.fault, a.op, at.slot, (int)t);
        return false;
    }
    if (a.turned == 0) return true;
    const int position = a.position[t];
    if (position < 0 || position >= a.positions) {
        if (threadIdx.x == 0) note_fault(a.fault, a.op, position, (int)t);
        return false;
    }
    at.cos = row_of<float>(a.cos, position), at.sin = row_of<float>(a.sin, position);
    return true;
}

// What all heads of a token share, where each thread finds its chunk's: halves of chunks lie apart, for the banks' sake.
struct by_chunk {
    float4 half[2][32];

    void fill(const float* from, int n, float sign) { // all threads of the block
        for (int i = threadIdx.x; i < n; i += blockDim.x) ((float*)&half[i / 4 % 2][i / 8])[i % 4] = sign * from[i];
    }
    void read(float (&v)[8], int chunk) const {
        const float4 a = half[0][chunk], b = half[1][chunk];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
};

// How the chunk at a place of a head turns. Of a pair (u, w) the lane that has u makes u·cos − w·sin, the one that has w makes
// u·sin + w·cos.
struct turning {
    const by_chunk *by_u, *by_w;
    int pair, partner; // chunk of angles, and the lane that has the other half
    bool first, any;   // has u; turns at all

    turning(const store_args& a, const by_chunk (&table)[3], int chunk) { // table: cos, sin, −sin
        const int pairs = a.turned / 16;
        first = chunk < pairs, any = chunk < 2 * pairs;
        by_u = &table[first ? 0 : 1], by_w = &table[first ? 2 : 0];
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

inline void fill_angles(const store_args& a, const place& p, by_chunk (&table)[3]) {
    table[0].fill(p.cos, a.turned / 2, 1), table[1].fill(p.sin, a.turned / 2, 1), table[2].fill(p.sin, a.turned / 2, -1);
}

// To the cache: kind 0 is K, 1 is V.
inline void put(const store_args& a, int slot, int head, int kind, int chunk_at, const chunk<A>& c) {
    const i64 head_size = (i64)a.block_tokens * a.dim;
    B* to = (B*)a.cache + (((i64)(slot / a.block_tokens) * a.kv_heads + head) * 2 + kind) * head_size + (i64)(slot % a.block_tokens) * a.dim + chunk_at * 8;
    float v[8];
    unpack(v, c);
    store8(to, v, 8);
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
    __shared__ by_chunk angles[3], weights[2];
    const i64 t = blockIdx.x;
    const int mine = threadIdx.x % a.lanes, at = mine * 8; // chunk of a head, and its first value
    A *q = row_of<A>(a.q, t), *k = row_of<A>(a.k, t), *v = row_of<A>(a.v, t);
    const bool whole = aligned(q) && aligned(k) && aligned(v);
    const int all = a.heads + 2 * a.kv_heads, step = blockDim.x / a.lanes, first = threadIdx.x / a.lanes;
    const int warp_first = threadIdx.x / 32 * 32 / a.lanes; // head
    const turning turn(a, angles, mine);
    place to;
    for (int base = 0; base + warp_first < all; base += HELD * step) {
        chunk<A> x[HELD];
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int h = base + i * step + first, kv = h - a.heads;
            const A* from = (kv < 0 ? q + h * a.dim : kv < a.kv_heads ? k + kv * a.dim : v + (kv - a.kv_heads) * a.dim) + at;
            if (h < all && at < a.dim) x[i] = load_chunk(from, 8, whole);
            else x[i] = chunk<A>{};
        }
        if (base == 0) { // now that the first loads are on their way
            if (!find_place(a, t, to)) return;
            fill_angles(a, to, angles);
            if (NORMS && a.q_weight != nullptr) weights[0].fill(a.q_weight, a.dim, 1);
            if (NORMS && a.k_weight != nullptr) weights[1].fill(a.k_weight, a.dim, 1);
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
                if (o >= a.lanes) continue;
#pragma unroll
                for (int i = 0; i < HELD; i++) squares[i] += __shfl_xor_sync(0xffffffffu, squares[i], o);
            }
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int kv = base + i * step + first - a.heads;
                if (at >= a.dim || kv >= a.kv_heads || (kv < 0 ? a.q_weight : a.k_weight) == nullptr) continue;
                float weight[8];
                weights[kv >= 0].read(weight, mine);
                x[i] = normed(x[i], norm_scale(squares[i], a.dim, kv < 0 ? a.q_eps : a.k_eps), weight);
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
                put(a, to.slot, kv % a.kv_heads, kv >= a.kv_heads, mine, y);
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
    __shared__ by_chunk angles[3];
    const i64 t = blockIdx.x;
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
    place to; // looked at when the loads are on their way
    if (!find_place(a, t, to)) return;
    fill_angles(a, to, angles);
    const turning turn(a, angles, threadIdx.x % a.lanes);
    float q_squares = 0, k_squares = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float values[8];
        unpack(values, xq[i]), q_squares = add_squares(q_squares, values, 0.0f, 8);
        unpack(values, xk[i]), k_squares = add_squares(k_squares, values, 0.0f, 8);
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
        const int c = threadIdx.x + i * blockDim.x, head = c / a.lanes;
        const chunk<A> yq = turn(normed(xq[i], q_scale, q_weight[i]), true), yk = turn(normed(xk[i], k_scale, k_weight[i]), true);
        if (c >= chunks) continue;
        store_chunk(q + c * 8, yq, 8, whole);
        if (to.slot < 0) continue;
        put(a, to.slot, head, 0, c % a.lanes, yk), put(a, to.slot, head, 1, c % a.lanes, xv[i]);
    }
}
#endif
