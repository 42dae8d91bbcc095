// Paged attention on the tensor cores, activations and cache of one 16-bit type A, heads of up to DIM values.
// Shapes  as in attention.cu; start [seqs+1] first token of each sequence.
// Order   KV in tiles of 64 positions of the sequence, ascending, by online softmax in float32; a tile's weights are
//         rounded to A before they meet V and before they are summed, both on the tensor cores, 16 positions a step.
//         Both kernels do the same sums in the same order, so a token has the same bits alone or in a prompt.
// Tiles   prefill: 64 tokens of one head, 16 a warp; for sequences with several tokens in the step, one after the other.
//         decode: one token, up to 16 query heads of one KV head; warps share a tile's positions, then its dimensions.
// Launch  128 threads, two stages of K and V by cp.async. prefill x: tiles of tokens, y: heads; decode x: sequences (or
//         tokens where each has one), y: KV heads, z: sixteens of its query heads.
// Bound   memory for decode, tensor cores for long prompts. Checked by optest.Attention.
#include "mma.cuh"

struct attention_args {
    mat out, q, blocks;
    const void* cache;
    const int *position, *seq, *start, *context;
    int* fault;
    int tokens, seqs, heads, kv_heads, dim, block_tokens, cache_blocks, window;
    float scale; // with log₂e
    int op;
};

enum { tile_tokens = 64, threads = 128 };

template <int DIM> struct attention {
    enum { row_bytes = DIM * 2, tile_bytes = tile_tokens * row_bytes, stage_bytes = 2 * tile_bytes, pieces = DIM / 8 };

    const attention_args& a;
    char* shared; // two stages of K, then V
    int kv_head;
    const int* blocks; // of the sequence at hand
    int lo, hi;        // positions that any row at hand sees

    static u32 place(int row, int piece) { return row * row_bytes + ((piece & ~7 | (piece ^ row) & 7) << 4); }

    // Begins to load a tile; positions that nobody sees become zeros.
    void load(int tile) {
        char* to = shared + tile % 2 * stage_bytes;
        const i64 head = (i64)a.block_tokens * a.dim;
#pragma unroll 4
        for (int i = threadIdx.x; i < tile_tokens * pieces; i += threads) {
            const int row = i / pieces, piece = i % pieces, p = tile * tile_tokens + row;
            const A* k = (const A*)a.cache;
            int valid = 0;
            if (p >= lo && p < hi && piece * 8 < a.dim) {
                const int block = blocks[p / a.block_tokens];
                if (block >= 0 && block < a.cache_blocks) {
                    k += ((i64)block * a.kv_heads + kv_head) * 2 * head + (i64)(p % a.block_tokens) * a.dim + piece * 8;
                    valid = 16;
                } else {
                    note_fault(a.fault, a.op, block, p);
                }
            }
            copy16(shared_address(to + place(row, piece)), k, valid);
            copy16(shared_address(to + tile_bytes + place(row, piece)), k + (valid ? head : 0), valid);
        }
    }

    // A row of q, or of zeros, as rows of the A operand: lane 4g+t has rows g and g+8.
    static void load_query(u32 (&f)[DIM / 16][4], const attention_args& a, const A* q0, const A* q1) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int s = 0; s < DIM / 16; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const A* q = i % 2 ? q1 : q0;
                const int d = s * 16 + i / 2 * 8 + t * 2;
                u32 lo = 0, hi = 0;
                if (q != nullptr && d < a.dim) lo = q[d].bits, hi = q[d + 1].bits;
                f[s][i] = lo | hi << 16;
            }
    }

    // Logits of 16 rows at positions n·8 … of a tile, for N pairs of eights.
    template <int N> static void logits(float (&s)[2 * N][4], const u32 (&q)[DIM / 16][4], const char* k, int first) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) s[2 * n][i] = s[2 * n + 1][i] = 0;
#pragma unroll
            for (int d = 0; d < DIM / 16; d++) {
                u32 b[4];
                load_matrices(b, shared_address(k + place(first + n * 16 + lane % 8 + (lane >> 4) * 8, d * 2 + (lane >> 3 & 1))));
                mma<A>(s[2 * n], q[d], b[0], b[1]);
                mma<A>(s[2 * n + 1], q[d], b[2], b[3]);
            }
        }
    }

    // o [16, 16·N] += p [16, 64] · V at dimensions first …; sum += p · 1.
    template <int N> static void weigh(float (&o)[2 * N][4], float (&sum)[4], const u32 (&p)[4][4], const char* v, int first) {
        const int lane = threadIdx.x % 32;
        const u32 ones = pair_of<A>(1, 1);
#pragma unroll
        for (int s = 0; s < 4; s++) {
            mma<A>(sum, p[s], ones, ones);
#pragma unroll
            for (int n = 0; n < N; n++) {
                u32 b[4];
                load_transposed(b, shared_address(v + place(s * 16 + lane % 8 + (lane >> 3 & 1) * 8, first / 8 + n * 2 + (lane >> 4))));
                mma<A>(o[2 * n], p[s], b[0], b[1]);
                mma<A>(o[2 * n + 1], p[s], b[2], b[3]);
            }
        }
    }

    // What one row sees of its sequence.
    static void span(const attention_args& a, i64 token, int seq, int& lo, int& hi) {
        const int last = a.position[token] + 1;
        hi = a.context != nullptr ? a.context[seq] : last;
        lo = a.window > 0 ? max(0, last - a.window) : 0;
    }

    static float quad_max(float x) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
        return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
    }

    // The new maximum of a row, and what its sums so far are multiplied by.
    static float raise(float& top, float found) {
        const float higher = fmaxf(top, found), base = higher == -infinity ? 0.0f : higher;
        const float keep = exp2f(top - base);
        top = higher;
        return keep;
    }
    static float weight(float s, float top) { return exp2f(s - (top == -infinity ? 0.0f : top)); }

    template <int N> static void scale_rows(float (&o)[N][4], float keep0, float keep1) {
#pragma unroll
        for (int n = 0; n < N; n++) o[n][0] *= keep0, o[n][1] *= keep0, o[n][2] *= keep1, o[n][3] *= keep1;
    }

    template <int N> static void store(const float (&o)[N][4], A* y0, A* y1, float sum0, float sum1, int first, int dim) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int d = first + n * 8 + t * 2 + i % 2;
                A* y = i < 2 ? y0 : y1;
                const float sum = i < 2 ? sum0 : sum1;
                if (y != nullptr && d < dim) y[d] = from_float<A>(sum > 0 ? o[n][i] / sum : 0.0f);
            }
    }

    void prefill() {
        const int first = (gridDim.x - 1 - blockIdx.x) * tile_tokens, head = blockIdx.y; // the long ones start first
        const int end = min(a.tokens, first + tile_tokens);
        kv_head = head / (a.heads / a.kv_heads);
        const int last_seq = a.seq[end - 1];
        for (int s = a.seq[first]; s <= last_seq; s++) {
            const int from = a.start[s], to = a.start[s + 1];
            if (to - from > 1) prefill_rows(head, s, max(first, from), min(end, to), first);
        }
    }

    // Tokens [from, to) of sequence s, which stand in a tile from first on.
    void prefill_rows(int head, int s, int from, int to, int first) {
        const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
        i64 token[2] = {first + row, first + row + 8};
        bool is[2];
        int l[2], h[2];
        lo = 1 << 30, hi = 0;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            is[i] = token[i] >= from && token[i] < to;
            l[i] = h[i] = 0;
            if (is[i]) span(a, token[i], s, l[i], h[i]);
        }
        for (int t = from + (int)threadIdx.x % tile_tokens; t < to; t += tile_tokens) { // at most one a thread
            int x, y;
            span(a, t, s, x, y);
            lo = x, hi = y;
        }
        __shared__ int low, high;
        __syncthreads();
        if (threadIdx.x == 0) low = 1 << 30, high = 0;
        __syncthreads();
        atomicMin(&low, lo), atomicMax(&high, hi);
        __syncthreads();
        lo = low, hi = high;
        blocks = row_of<int>(a.blocks, s);
        u32 q[DIM / 16][4];
        load_query(q, a, is[0] ? row_of<A>(a.q, token[0]) + head * a.dim : nullptr, is[1] ? row_of<A>(a.q, token[1]) + head * a.dim : nullptr);
        float o[DIM / 8][4] = {}, sum[4] = {}, top[2] = {-infinity, -infinity};
        const int begin = lo / tile_tokens, tiles = (hi + tile_tokens - 1) / tile_tokens;
        const bool busy = __any_sync(0xffffffffu, is[0] || is[1]);
        if (begin < tiles) load(begin);
        commit();
        for (int tile = begin; tile < tiles; tile++) {
            wait<0>();
            __syncthreads();
            if (tile + 1 < tiles) load(tile + 1);
            commit();
            if (!busy) continue;
            const char* k = shared + tile % 2 * stage_bytes;
            float w[8][4];
            logits<4>(w, q, k, 0);
            float most[2] = {-infinity, -infinity};
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int p = tile * tile_tokens + n * 8 + lane % 4 * 2 + i % 2;
                    w[n][i] = p >= l[i / 2] && p < h[i / 2] ? w[n][i] * a.scale : -infinity;
                    most[i / 2] = fmaxf(most[i / 2], w[n][i]);
                }
            const float keep0 = raise(top[0], quad_max(most[0])), keep1 = raise(top[1], quad_max(most[1]));
            scale_rows(o, keep0, keep1);
            sum[0] *= keep0, sum[2] *= keep1;
            u32 p[4][4];
#pragma unroll
            for (int s = 0; s < 4; s++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* x = w[2 * s + i / 2] + i % 2 * 2;
                    p[s][i] = pair_of<A>(weight(x[0], top[i % 2]), weight(x[1], top[i % 2]));
                }
            weigh<DIM / 16>(o, sum, p, k + tile_bytes, 0);
        }
        wait<0>();
        __syncthreads(); // before the next sequence overwrites the stages
        store(o, is[0] ? row_of<A>(a.out, token[0]) + head * a.dim : nullptr, is[1] ? row_of<A>(a.out, token[1]) + head * a.dim : nullptr,
              sum[0], sum[2], 0, a.dim);
    }

    void decode() {
        int token = blockIdx.x;
        if (a.tokens != a.seqs) { // sequences with several tokens are prefill's
            token = a.start[blockIdx.x];
            if (a.start[blockIdx.x + 1] - token != 1) return;
        }
        const int s = a.seq[token], lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = a.heads / a.kv_heads;
        kv_head = blockIdx.y;
        const int r0 = blockIdx.z * 16 + lane / 4, r1 = r0 + 8; // of the group
        span(a, token, s, lo, hi);
        blocks = row_of<int>(a.blocks, s);
        auto of = [&](const mat& m, int r) { return r < group ? row_of<A>(m, token) + (kv_head * group + r) * a.dim : nullptr; };
        u32 q[DIM / 16][4];
        load_query(q, a, of(a.q, r0), of(a.q, r1));
        float o[DIM / 32][4] = {}, sum[4] = {}, top[2] = {-infinity, -infinity};
        __shared__ float most_of[2][4][16];
        __shared__ __align__(128) char weights[16 * 128]; // [16][64], swizzled
        const int begin = lo / tile_tokens, tiles = (hi + tile_tokens - 1) / tile_tokens;
        if (begin < tiles) load(begin);
        commit();
        for (int tile = begin; tile < tiles; tile++) {
            wait<0>();
            __syncthreads();
            if (tile + 1 < tiles) load(tile + 1);
            commit();
            const char* k = shared + tile % 2 * stage_bytes;
            float w[2][4], most[2] = {-infinity, -infinity};
            logits<1>(w, q, k, warp * 16);
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int p = tile * tile_tokens + warp * 16 + n * 8 + lane % 4 * 2 + i % 2;
                    w[n][i] = p >= lo && p < hi ? w[n][i] * a.scale : -infinity;
                    most[i / 2] = fmaxf(most[i / 2], w[n][i]);
                }
            most[0] = quad_max(most[0]), most[1] = quad_max(most[1]);
            float(&shared_most)[4][16] = most_of[tile % 2];
            if (lane % 4 == 0) shared_most[warp][lane / 4] = most[0], shared_most[warp][lane / 4 + 8] = most[1];
            __syncthreads();
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = lane / 4 + i * 8;
                most[i] = fmaxf(fmaxf(shared_most[0][r], shared_most[1][r]), fmaxf(shared_most[2][r], shared_most[3][r]));
            }
            const float keep0 = raise(top[0], most[0]), keep1 = raise(top[1], most[1]);
            scale_rows(o, keep0, keep1);
            sum[0] *= keep0, sum[2] *= keep1;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int r = lane / 4 + i * 8;
                    *(u32*)(weights + r * 128 + (((warp * 2 + n) ^ r % 8) << 4) + lane % 4 * 4) =
                        pair_of<A>(weight(w[n][i * 2], top[i]), weight(w[n][i * 2 + 1], top[i]));
                }
            __syncthreads();
            u32 p[4][4];
#pragma unroll
            for (int s = 0; s < 4; s++) {
                const int r = lane % 16;
                load_matrices(p[s], shared_address(weights + r * 128 + (((s * 2 + (lane >> 4)) ^ r % 8) << 4)));
            }
            weigh<DIM / 64>(o, sum, p, k + tile_bytes, warp * (DIM / 4));
        }
        store(o, of(a.out, r0), of(a.out, r1), sum[0], sum[2], warp * (DIM / 4), a.dim);
    }
};

#define KERNELS(dim)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(threads) prefill_##dim(const attention_args a) {                      \
        extern __shared__ __align__(128) char shared[];                                                                \
        after_earlier();                                                                                               \
        attention<dim>{a, shared}.prefill();                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(threads) decode_##dim(const attention_args a) {                       \
        extern __shared__ __align__(128) char shared[];                                                                \
        after_earlier();                                                                                               \
        attention<dim>{a, shared}.decode();                                                                            \
    }

KERNELS(64)
KERNELS(128)
