// Rotates q and k in place by table, and stores k and v in a paged cache.
// Shapes  q [tokens, heads·dim], k, v [tokens, kv·dim] of A; cos, sin [positions, turned/2] f32; the cache's layer of B:
//         [block][kv head]{K [tokens of a block][dim], V the same; with LATENT none}; slot [tokens] (-1: nowhere).
// Order   (a, b) becomes (a·cos − b·sin, b·cos + a·sin), rounded to A, then to B.
// Launch  a block a token. store: a warp a head, q's, then k's, then v's. store_chunks, where halves of a head lie apart and
//         are multiples of 8: a thread turns 8 pairs, or copies 8 values. Bound: memory. Checked by optest.Store.
#include "common.cuh"

struct store_args {
    mat q, k, v, cos, sin;
    const int *position, *slot;
    void* cache;
    int* fault;
    int heads, kv_heads, dim, turned, interleaved, block_tokens, slots, positions, op, pad;
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
extern "C" __global__ void store_chunks(const store_args a) {
    after_earlier();
    const i64 t = blockIdx.x;
    const int slot = a.slot[t], half = a.turned / 2, pairs = half / 8, all = a.dim / 8, rest = all - 2 * pairs; // chunks of a head
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
    auto cached = [&](int head, int kind) { // K is 0, V is 1
        return (B*)a.cache + ((i64)(slot / a.block_tokens) * a.kv_heads + head) * 2 * head_size + kind * head_size + (i64)(slot % a.block_tokens) * a.dim;
    };
    auto put = [&](B* to, float (&v)[8]) {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = rounded<A>(v[j]);
        store8(to, v, 8);
    };
    const int turns = (a.heads + a.kv_heads) * pairs, copies = slot < 0 ? 0 : a.kv_heads * (rest + all);
    for (int i = threadIdx.x; i < turns + copies; i += blockDim.x) {
        float u[8], w[8];
        if (i >= turns) { // what of k does not turn, then v
            const int c = i - turns, of_k = a.kv_heads * rest, kind = c >= of_k, each = kind ? all : rest;
            const int head = (c - kind * of_k) / each, at = ((c - kind * of_k) % each + (kind ? 0 : 2 * pairs)) * 8;
            load8(u, row_of<A>(kind ? a.v : a.k, t) + head * a.dim + at, 8);
            put(cached(head, kind) + at, u);
            continue;
        }
        const int h = i / pairs, at = i % pairs * 8, kv = h - a.heads;
        A* x = (kv < 0 ? row_of<A>(a.q, t) + h * a.dim : row_of<A>(a.k, t) + kv * a.dim) + at;
        float c[8], s[8];
        load8(u, x, 8), load8(w, x + half, 8), load8(c, cos + at, 8), load8(s, sin + at, 8);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float m = u[j], n = w[j];
            u[j] = m * c[j] - n * s[j], w[j] = n * c[j] + m * s[j];
        }
        store8(x, u, 8), store8(x + half, w, 8);
        if (kv < 0 || slot < 0) continue;
        put(cached(kv, 0) + at, u), put(cached(kv, 0) + at + half, w);
    }
}
#endif
