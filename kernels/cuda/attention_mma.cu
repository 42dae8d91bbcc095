// Paged attention on the tensor cores, activations and cache of one 16-bit type A, heads of up to DIM values.
// Shapes  as in attention.cuh. Order: as there, whichever kernel a token comes to.
// Tiles   prefill: 64 tokens of one head, 16 a warp; for sequences with several tokens in the step, one after the other.
//         decode: one token, up to 16 query heads of one KV head; warps share a tile's positions, then its dimensions.
//         A long context's pieces go to several blocks, whose results combine brings together.
// Launch  128 threads, two stages of K and V by cp.async. prefill x: tiles of tokens, y: heads; decode x: sequences (or
//         tokens where each has one), y: KV heads and sixteens of their query heads, z: shares of the context; combine x:
//         sequences, y: heads, DIM threads.
// Bound   memory for decode, tensor cores for long prompts. Checked by optest.Attention.
#include "attention.cuh"

enum { threads = 128 };

template <int DIM> struct attention {
    enum { row_bytes = DIM * 2, tile_bytes = tile_tokens * row_bytes, stage_bytes = 2 * tile_bytes, pieces = DIM / 8 };

    const attention_args& a;
    u32 stages; // two of K, then V: their place in shared memory
    int kv_head;
    const int* blocks; // of the sequence at hand
    int lo, hi;        // positions that any row at hand sees

    static u32 place(int row, int piece) { return row * row_bytes + ((piece & ~7 | (piece ^ row) & 7) << 4); }

    // The row of the cache that this lane finds for its warp's 16 positions of a tile.
    int find(int tile) const {
        return cache_row(a, blocks, kv_head, tile * tile_tokens + threadIdx.x / 32 * 16 + threadIdx.x % 16, lo, hi);
    }

    // Begins to load a tile whose rows were found: a row of K and its row of V by 2·pieces lanes at once.
    void load(int tile, int found) {
        enum { at_once = 32 / (2 * pieces) };
        const int lane = threadIdx.x % 32, piece = lane % pieces, v = lane / pieces % 2, sub = lane / (2 * pieces);
        const u32 to = stages + tile % 2 * stage_bytes + v * tile_bytes;
        const A* from = (const A*)a.cache + (i64)v * a.block_tokens * a.dim + piece * 8;
#pragma unroll
        for (int i = 0; i < 16; i += at_once) {
            const int at = __shfl_sync(0xffffffffu, found, i + sub);
            const bool valid = at >= 0 && piece * 8 < a.dim;
            copy16(to + place(threadIdx.x / 32 * 16 + i + sub, piece), valid ? from + (i64)at * a.dim : (const A*)a.cache, valid ? 16 : 0);
        }
    }

    // 16 inputs of two rows of q, or of zeros, as the A operand: lane 4g+t has rows g and g+8.
    static uint4 query(const attention_args& a, const A* q0, const A* q1, int step) {
        u32 f[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const A* q = i % 2 ? q1 : q0;
            const int d = step * 16 + i / 2 * 8 + threadIdx.x % 4 * 2;
            u32 lo = 0, hi = 0;
            if (q != nullptr && d < a.dim) lo = q[d].bits, hi = q[d + 1].bits;
            f[i] = lo | hi << 16;
        }
        return make_uint4(f[0], f[1], f[2], f[3]);
    }

    // Logits of 16 rows, whose q is query(step), at positions first … of a tile, for N pairs of eights.
    template <int N, class QUERY> static void logits(float (&s)[2 * N][4], QUERY query, u32 k, int first) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < 2 * N; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) {
            const uint4 q = query(d);
            const u32 rows[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (int n = 0; n < N; n++) {
                u32 b[4];
                load_matrices(b, k + place(first + n * 16 + lane % 8 + (lane >> 4) * 8, d * 2 + (lane >> 3 & 1)));
                mma<A>(s[2 * n], rows, b[0], b[1]);
                mma<A>(s[2 * n + 1], rows, b[2], b[3]);
            }
        }
    }

    // o [16, 16·N] += p [16, 64] · V at dimensions first ….
    template <int N> static void weigh(float (&o)[2 * N][4], const u32 (&p)[4][4], u32 v, int first) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int n = 0; n < N; n++) {
                u32 b[4];
                load_transposed(b, v + place(s * 16 + lane % 8 + (lane >> 3 & 1) * 8, first / 8 + n * 2 + (lane >> 4)));
                mma<A>(o[2 * n], p[s], b[0], b[1]);
                mma<A>(o[2 * n + 1], p[s], b[2], b[3]);
            }
    }

    template <int N> static void scale_rows(float (&o)[N][4], float keep0, float keep1) {
#pragma unroll
        for (int n = 0; n < N; n++) o[n][0] *= keep0, o[n][1] *= keep0, o[n][2] *= keep1, o[n][3] *= keep1;
    }

    // A piece's sums come to those of the pieces before.
    template <int N> static void fold(float (&all)[N][4], const float (&o)[N][4], const row_sum& row0, const row_sum& row1) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) all[n][i] = (i < 2 ? row0 : row1).folded(all[n][i], o[n][i]);
    }

    template <int N> static void clear(float (&o)[N][4]) {
#pragma unroll
        for (int n = 0; n < N; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;
    }

    template <int N> static void store(const float (&o)[N][4], A* y0, A* y1, const row_sum& row0, const row_sum& row1, int first, int dim) {
        const int t = threadIdx.x % 4;
        const float inverse[2] = {row0.inverse(), row1.inverse()};
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int d = first + n * 8 + t * 2 + i % 2;
                A* y = i < 2 ? y0 : y1;
                if (y != nullptr && d < dim) y[d] = from_float<A>(row_sum::result(o[n][i], inverse[i / 2]));
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
        const int token[2] = {first + row, first + row + 8};
        auto is = [&](int i) { return token[i] >= from && token[i] < to; };
        int l[2] = {}, h[2] = {};
        lo = 1 << 30, hi = 0;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (is(i)) span(a, token[i], s, l[i], h[i]);
        for (int t = from + (int)threadIdx.x % tile_tokens; t < to; t += tile_tokens) { // at most one a thread
            int x, y;
            span(a, t, s, x, y);
            lo = x, hi = y;
        }
        __shared__ int low, high;
#if defined(SINKS)
        __shared__ float sink; // not in a register all the time
        if (threadIdx.x == 0) sink = sink_of(a, head, a.scale);
#endif
        __syncthreads();
        if (threadIdx.x == 0) low = 1 << 30, high = 0;
        __syncthreads();
        atomicMin(&low, lo), atomicMax(&high, hi);
        __syncthreads();
        lo = low, hi = high;
        blocks = row_of<int>(a.blocks, s);
        __shared__ uint4 queries[DIM / 16][threads]; // a thread's own: registers are short
        auto row_at = [&](const mat& m, int i) { return is(i) ? row_of<A>(m, token[i]) + head * a.dim : nullptr; };
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) queries[d][threadIdx.x] = query(a, row_at(a.q, 0), row_at(a.q, 1), d);
        float o[DIM / 8][4] = {}, top[2] = {-infinity, -infinity}, all[DIM / 8][4] = {};
        row_mass mass[2];
        row_sum rows[2];
#pragma unroll
        for (int i = 0; i < 2; i++) mass[i].begin(), rows[i].begin();
        const int begin = lo / tile_tokens, tiles = (hi + tile_tokens - 1) / tile_tokens;
        const bool busy = __any_sync(0xffffffffu, is(0) || is(1));
#if defined(ALIBI)
        const float lean = lean_of(a, head);
#endif
        int found = find(begin);
        if (begin < tiles) load(begin, found);
        commit();
        found = find(begin + 1);
        for (int tile = begin; tile < tiles; tile++) {
            wait<0>();
            __syncthreads();
            if (tile + 1 < tiles) load(tile + 1, found);
            commit();
            found = find(tile + 2); // by the time that it is needed
            if (!busy) continue;
            const u32 k = stages + tile % 2 * stage_bytes;
            float w[8][4];
            logits<4>(w, [&](int d) { return queries[d][threadIdx.x]; }, k, 0);
            float most[2] = {-infinity, -infinity};
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int p = tile * tile_tokens + n * 8 + lane % 4 * 2 + i % 2;
#if defined(ALIBI)
                    w[n][i] = leant(w[n][i], lean, p - (h[i / 2] - 1));
#endif
                    w[n][i] = p >= l[i / 2] && p < h[i / 2] ? w[n][i] : -infinity;
                    most[i / 2] = fmaxf(most[i / 2], w[n][i]);
                }
            const float keep0 = raise(top[0], quad_max(most[0]), a.scale), keep1 = raise(top[1], quad_max(most[1]), a.scale);
            const float shift[2] = {shift_of(top[0], a.scale), shift_of(top[1], a.scale)};
            scale_rows(o, keep0, keep1);
            u32 p[4][4];
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) w[n][i] = weight(w[n][i], a.scale, shift[i / 2]);
#pragma unroll
            for (int s = 0; s < 4; s++) {
#pragma unroll
                for (int i = 0; i < 2; i++)
                    row_mass::add(mass[i].of[s], i == 0 ? keep0 : keep1, w[2 * s][2 * i], w[2 * s][2 * i + 1], w[2 * s + 1][2 * i], w[2 * s + 1][2 * i + 1]);
#pragma unroll
                for (int i = 0; i < 4; i++) p[s][i] = pair_of<A>(w[2 * s + i / 2][i % 2 * 2], w[2 * s + i / 2][i % 2 * 2 + 1]);
            }
            weigh<DIM / 16>(o, p, k + tile_bytes, 0);
            if ((tile + 1) % piece_tiles == 0 || tile + 1 == tiles) {
                rows[0].fold(top[0], mass[0].all(), a.scale), rows[1].fold(top[1], mass[1].all(), a.scale);
                fold(all, o, rows[0], rows[1]);
                clear(o);
                mass[0].begin(), mass[1].begin(), top[0] = top[1] = -infinity;
            }
        }
        wait<0>();
        __syncthreads(); // before the next sequence overwrites the stages
#if defined(SINKS)
        rows[0].sink(sink, a.scale), rows[1].sink(sink, a.scale);
#endif
        store(all, row_at(a.out, 0), row_at(a.out, 1), rows[0], rows[1], 0, a.dim);
    }

    void decode() {
        const i64 token = alone(a, blockIdx.x);
        if (token < 0) return; // prefill's
        const int s = a.seq[token], lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = a.heads / a.kv_heads;
        kv_head = blockIdx.y;
        const int r0 = blockIdx.z % ((group + 15) / 16) * 16 + lane / 4, r1 = r0 + 8; // of the group
        const int part = blockIdx.z / ((group + 15) / 16);
        span(a, token, s, lo, hi);
        const int begin = max(lo / tile_tokens, (lo / piece_tokens + part * a.run) * piece_tiles);
        if (part > 0 && begin * tile_tokens >= hi) return;
        blocks = row_of<int>(a.blocks, s);
        int found = find(begin);
        if (begin * tile_tokens < hi) load(begin, found);
        commit();
        found = find(begin + 1);
        const share mine = share_of(a, blockIdx.x, lo, hi, part); // while that comes
        const int tiles = min((hi + tile_tokens - 1) / tile_tokens, mine.to * piece_tiles);
        auto of = [&](const mat& m, int r) { return r < group ? row_of<A>(m, token) + (kv_head * group + r) * a.dim : nullptr; };
        uint4 q[DIM / 16];
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) q[d] = query(a, of(a.q, r0), of(a.q, r1), d);
#if defined(ALIBI)
        const float lean[2] = {r0 < group ? lean_of(a, kv_head * group + r0) : 0.0f, r1 < group ? lean_of(a, kv_head * group + r1) : 0.0f};
#endif
        float o[DIM / 32][4] = {}, mass[2] = {}, top[2] = {-infinity, -infinity}, all[DIM / 32][4] = {};
        row_sum rows[2];
        rows[0].begin(), rows[1].begin();
        __shared__ float most_of[2][4][16], mass_of[4][16][4]; // mass_of: what row_mass has, at a piece's end
        __shared__ __align__(128) char weights[16 * 128]; // [16][64], swizzled
        for (int tile = begin; tile < tiles; tile++) {
            wait<0>();
            __syncthreads();
            if (tile + 1 < tiles) load(tile + 1, found);
            commit();
            found = find(tile + 2); // by the time that it is needed
            const u32 k = stages + tile % 2 * stage_bytes;
            float w[2][4], most[2] = {-infinity, -infinity};
            logits<1>(w, [&](int d) { return q[d]; }, k, warp * 16);
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int p = tile * tile_tokens + warp * 16 + n * 8 + lane % 4 * 2 + i % 2;
#if defined(ALIBI)
                    w[n][i] = leant(w[n][i], lean[i / 2], p - (hi - 1));
#endif
                    w[n][i] = p >= lo && p < hi ? w[n][i] : -infinity;
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
            const float keep0 = raise(top[0], most[0], a.scale), keep1 = raise(top[1], most[1], a.scale);
            const float shift[2] = {shift_of(top[0], a.scale), shift_of(top[1], a.scale)};
            scale_rows(o, keep0, keep1);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = lane / 4 + i * 8;
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    w[n][i * 2] = weight(w[n][i * 2], a.scale, shift[i]), w[n][i * 2 + 1] = weight(w[n][i * 2 + 1], a.scale, shift[i]);
                    *(u32*)(weights + r * 128 + (((warp * 2 + n) ^ r % 8) << 4) + lane % 4 * 4) = pair_of<A>(w[n][i * 2], w[n][i * 2 + 1]);
                }
                row_mass::add(mass[i], i == 0 ? keep0 : keep1, w[0][i * 2], w[0][i * 2 + 1], w[1][i * 2], w[1][i * 2 + 1]);
                mass_of[warp][r][lane % 4] = mass[i];
            }
            __syncthreads();
            u32 p[4][4];
#pragma unroll
            for (int s = 0; s < 4; s++) {
                const int r = lane % 16;
                load_matrices(p[s], shared_address(weights + r * 128 + (((s * 2 + (lane >> 4)) ^ r % 8) << 4)));
            }
            weigh<DIM / 64>(o, p, k + tile_bytes, warp * (DIM / 4));
            if ((tile + 1) % piece_tiles != 0 && tile + 1 < tiles) continue;
            float all_of[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = lane / 4 + i * 8;
                all_of[i] = row_mass{{mass_of[0][r][lane % 4], mass_of[1][r][lane % 4], mass_of[2][r][lane % 4], mass_of[3][r][lane % 4]}}.all();
            }
            if (part > 0) { // a piece for itself
                keep_part(mine.slot + tile / piece_tiles - mine.from, r0, r1, o, top[0], top[1], all_of[0], all_of[1]);
            } else {
                rows[0].fold(top[0], all_of[0], a.scale), rows[1].fold(top[1], all_of[1], a.scale);
                fold(all, o, rows[0], rows[1]);
            }
            clear(o);
            mass[0] = mass[1] = 0, top[0] = top[1] = -infinity;
        }
        if (part > 0) return;
#if defined(SINKS)
        if (mine.slot < 0) {
            if (r0 < group) rows[0].sink(sink_of(a, kv_head * group + r0, a.scale), a.scale);
            if (r1 < group) rows[1].sink(sink_of(a, kv_head * group + r1, a.scale), a.scale);
        }
#endif
        if (mine.slot < 0)
            store(all, of(a.out, r0), of(a.out, r1), rows[0], rows[1], warp * (DIM / 4), a.dim);
        else
            keep_part(mine.slot, r0, r1, all, rows[0].top, rows[1].top, rows[0].mass, rows[1].mass);
    }

    // Keeps for combine what this warp has of two rows' sums.
    template <int N> void keep_part(int slot, int r0, int r1, const float (&o)[N][4], float top0, float top1, float mass0, float mass1) {
        const int t = threadIdx.x % 4, warp = threadIdx.x / 32, group = a.heads / a.kv_heads;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = i == 0 ? r0 : r1;
            if (r >= group) continue;
            const i64 at = result_at(a, slot, kv_head * group + r);
#pragma unroll
            for (int n = 0; n < N; n++)
                *(float2*)(a.partials + at * DIM + warp * (DIM / 4) + n * 8 + t * 2) = make_float2(o[n][2 * i], o[n][2 * i + 1]);
            if (threadIdx.x % 4 == 0 && warp == 0) masses_of(a, DIM)[at] = i == 0 ? make_float2(top0, mass0) : make_float2(top1, mass1);
        }
    }
    void combine() { combine_parts<DIM>(a, a.scale); }
};

// The bounds are threads of a block and, where ptxas would rather spill than take more registers, blocks of a multiprocessor.
#define KERNEL(name, dim, ...)                                                                                         \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_##dim(const attention_args a) {                   \
        extern __shared__ __align__(128) char shared[];                                                                \
        after_earlier();                                                                                               \
        attention<dim>{a, shared_address(shared)}.name();                                                              \
    }

KERNEL(prefill, 64, threads, 2)
KERNEL(prefill, 128, threads)
KERNEL(decode, 64, threads)
KERNEL(decode, 128, threads)
KERNEL(combine, 64, 64)
KERNEL(combine, 128, 128)
