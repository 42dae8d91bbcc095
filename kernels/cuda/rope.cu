// Rotates q and k in place by table, and stores k and v in a paged cache.
// Shapes  q [tokens, heads·dim], k, v [tokens, kv·dim] of A; cos, sin [positions, turned/2] f32; the cache's layer of B:
//         [block][kv head]{K [tokens of a block][dim], V the same}; slot [tokens] (-1: nowhere).
// Order   (a, b) becomes (a·cos − b·sin, b·cos + a·sin), rounded to A, then to B.
// Launch  a block a token, a warp a head: q's heads, then k's, then v's. Bound: memory. Checked by optest.Store.
#include "common.cuh"

struct store_args {
    mat q, k, v, cos, sin;
    const int *position, *slot;
    void* cache;
    int* fault;
    int heads, kv_heads, dim, turned, interleaved, block_tokens, slots, positions, op, pad;
};

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
    for (int h = threadIdx.x / 32; h < a.heads + 2 * a.kv_heads; h += blockDim.x / 32) {
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
        B* to = (B*)a.cache + ((i64)(slot / a.block_tokens) * a.kv_heads + head) * 2 * head_size
              + (kind == 2 ? head_size : 0) + (i64)(slot % a.block_tokens) * a.dim;
        for (int i = lane; i < a.dim; i += 32) to[i] = from_float<B>(to_float(x[i]));
    }
}
