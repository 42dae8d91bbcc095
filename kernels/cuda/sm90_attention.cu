// Attention of prompts on Hopper: what prefill of attention_mma.cu computes, by wgmma.
// Shapes  as in attention.cuh. Order: as there. wgmma adds 16 products at a time to a sum as mma.sync does, to the same bits
//         (seen on an H100: 65 million sums of bf16 and f16, subnormals and infinities among them), so that a token may be
//         another kernel's in its prompt than alone.
// Tiles   128 tokens of one head, 64 a warpgroup, q in shared memory, by 64 positions; for sequences with several tokens in
//         the step, one after the other. The weights of a tile are made while those of the one before meet V.
// Launch  x: tiles of tokens, y: heads; 256 threads, q and four stages of K and V by cp.async, in swizzled halves of 64.
// Bound   tensor cores. Checked by optest.Attention.
#include "attention.cuh"
#include "wgmma.cuh"

enum { warpgroups = 2, threads = warpgroups * 128, tile_rows = warpgroups * 64, stages = 4, ahead = stages - 2 };

// o (+)= p · v for 64 rows, p [64, 16] in registers as mma's A operand, v [16, N] with its N adjacent in swizzled rows of
// 64, halves bytes from one 64 to the next.
template <class T, int N> struct wgmma_wide;
#define WGMMA_WIDE(T, N, SUMS, A0, A1, A2, A3, B, ADD)                                                                 \
    template <> struct wgmma_wide<T, N> {                                                                              \
        static void run(bool add, float (&c)[N / 8][4], const u32 (&a)[4], u64 b) {                                    \
            asm volatile("{.reg .pred p; setp.ne.b32 p, " ADD ", 0; "                                                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" REGISTERS_##SUMS "}, {"      \
                         A0 ", " A1 ", " A2 ", " A3 "}, " B ", p, 1, 1, 1;}"                                           \
                         : SUMS_##SUMS(0)                                                                              \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));                         \
        }                                                                                                              \
    };
WGMMA_WIDE(bf16, 64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
WGMMA_WIDE(f16, 64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
WGMMA_WIDE(bf16, 128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
WGMMA_WIDE(f16, 128, 64, "%64", "%65", "%66", "%67", "%68", "%69")

inline u64 wide_operand(u32 address, u32 halves) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(halves >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

template <int DIM> struct attention {
    enum { kv_half = tile_tokens * 128, q_half = tile_rows * 128, halves = DIM / 64, tile_bytes = halves * kv_half,
           stage_bytes = 2 * tile_bytes, q_bytes = halves * q_half };

    const attention_args& a;
    u32 queries; // q, then the stages of K and V: their place in shared memory
    int head, kv_head;
    const int* blocks; // of the sequence at hand
    int lo, hi;        // positions that any row at hand sees
    int begin, tiles;  // of 64 positions: the first one, the end

    static u32 place(int row, int piece) { return row * 128 + ((piece ^ row % 8) << 4); }
    u32 stage(int tile) const { return queries + q_bytes + tile % stages * stage_bytes; }

    // The row of the cache that this lane finds for its warp's 8 positions of a tile.
    int find(int tile) const {
        return cache_row(a, blocks, kv_head, tile * tile_tokens + threadIdx.x / 32 * 8 + threadIdx.x % 8, lo, hi);
    }

    // Begins to load a tile whose rows were found: a row of K and its row of V by 2·pieces lanes at once.
    void load(int tile, int found) {
        enum { pieces = DIM / 8, at_once = 32 / (2 * pieces) };
        const int lane = threadIdx.x % 32, piece = lane % pieces, v = lane / pieces % 2, sub = lane / (2 * pieces);
        const u32 to = stage(tile) + v * tile_bytes + piece / 8 * kv_half;
        const A* from = (const A*)a.cache + (i64)v * a.block_tokens * a.dim + piece * 8;
#pragma unroll
        for (int i = 0; i < 8; i += at_once) {
            const int at = __shfl_sync(0xffffffffu, found, i + sub);
            const bool valid = at >= 0 && piece * 8 < a.dim;
            copy16(to + place(threadIdx.x / 32 * 8 + i + sub, piece % 8), valid ? from + (i64)at * a.dim : (const A*)a.cache, valid ? 16 : 0);
        }
    }

    // A tile is there for all, and nobody reads the one two before it any more.
    void arrive() {
        wait<ahead - 1>();
        publish();
        __syncthreads();
    }

    // Begins to load the tile after those that are on their way, over one that nobody reads any more.
    void fetch(int tile, int& found) {
        if (tile + ahead < tiles) load(tile + ahead, found);
        commit();
        found = find(tile + ahead + 1); // by the time that it is needed
    }

    // q of tokens [from, to), which stand in a tile from first on.
    void load_queries(int first, int from, int to) {
        for (int i = threadIdx.x; i < tile_rows * DIM / 8; i += threads) {
            const int row = i / (DIM / 8), piece = i % (DIM / 8), token = first + row;
            union { uint4 all; A each[8]; } x;
            x.all = make_uint4(0, 0, 0, 0);
            if (token >= from && token < to && piece * 8 < a.dim) {
                const A* q = row_of<A>(a.q, token) + head * a.dim + piece * 8;
                if (aligned(q)) {
                    x.all = *(const uint4*)q;
                } else {
#pragma unroll
                    for (int j = 0; j < 8; j++) x.each[j] = q[j];
                }
            }
            const u32 at = queries + piece / 8 * q_half + place(row, piece % 8);
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x.all.x), "r"(x.all.y), "r"(x.all.z), "r"(x.all.w) : "memory");
        }
    }

    // s = q · kᵀ, under way.
    void begin_logits(float (&s)[8][4], int tile) {
        const u32 q = queries + threadIdx.x / 128 * (64 * 128), k = stage(tile);
#pragma unroll
        for (int d = 0; d < DIM / 16; d++)
            wgmma<A, 64>::run(d > 0, s, swizzled_operand(q + d / 4 * q_half + d % 4 * 32), swizzled_operand(k + d / 4 * kv_half + d % 4 * 32));
        wgmma_commit();
    }

    // o (+)= p · v, under way.
    void begin_sums(float (&o)[DIM / 8][4], const u32 (&p)[4][4], int tile) {
        const u32 v = stage(tile) + tile_bytes;
#pragma unroll
        for (int k = 0; k < 4; k++)
            wgmma_wide<A, DIM>::run(tile % piece_tiles != 0 && tile != begin || k > 0, o, p[k], wide_operand(v + k * 2048, kv_half));
        wgmma_commit();
    }

    // A row of this thread: what it sees, and its sums of the piece at hand and of those before.
    struct row_state {
        int lo, hi;
        float top, mass, keep; // keep: of the last tile's weights
        row_sum all;
    };

    // Logits become weights, not rounded yet.
    void weigh(float (&s)[8][4], row_state (&row)[2], int tile) {
        const int first = tile * tile_tokens + threadIdx.x % 4 * 2;
        bool whole = true;
#pragma unroll
        for (int i = 0; i < 2; i++) whole = whole && tile * tile_tokens >= row[i].lo && (tile + 1) * tile_tokens <= row[i].hi;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = scaled(s[n][i], a.scale);
        if (!__all_sync(0xffffffffu, whole)) {
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int p = first + n * 8 + i % 2;
                    if (p < row[i / 2].lo || p >= row[i / 2].hi) s[n][i] = -infinity;
                }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float most = -infinity;
#pragma unroll
            for (int n = 0; n < 8; n++) most = fmaxf(most, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
            row[i].keep = raise(row[i].top, quad_max(most));
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) s[n][2 * i + j] = weight(s[n][2 * i + j], row[i].top);
        }
    }

    // Weights are rounded and summed.
    void round(u32 (&p)[4][4], const float (&s)[8][4], row_state (&row)[2]) {
        const u32 ones = pair_of<A>(1, 1);
        float sum[4] = {row[0].mass * row[0].keep, 0, row[1].mass * row[1].keep, 0};
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) p[k][i] = pair_of<A>(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
            mma<A>(sum, p[k], ones, ones);
        }
        row[0].mass = sum[0], row[1].mass = sum[2];
    }

    // The piece's sums, which o will hold, come to those before.
    static void end_piece(row_state (&row)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            row[i].all.fold(row[i].top, row[i].mass);
            row[i].top = -infinity, row[i].mass = 0;
        }
    }
    static void fold(float (&all)[DIM / 8][4], const float (&o)[DIM / 8][4], const row_state (&row)[2]) {
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) all[n][i] = row[i / 2].all.folded(all[n][i], o[n][i]);
    }

    void prefill() {
        const int first = (gridDim.x - 1 - blockIdx.x) * tile_rows; // the long ones start first
        const int end = min(a.tokens, first + tile_rows);
        head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
        const int last = a.seq[end - 1];
        for (int s = a.seq[first]; s <= last; s++) {
            const int from = a.start[s], to = a.start[s + 1];
            if (to - from > 1) prefill_rows(s, max(first, from), min(end, to), first);
        }
    }

    // Tokens [from, to) of sequence s, which stand in a tile from first on.
    void prefill_rows(int s, int from, int to, int first) {
        const int lane = threadIdx.x % 32, group = threadIdx.x / 128, token = first + threadIdx.x / 32 * 16 + lane / 4;
        row_state row[2];
        lo = 1 << 30, hi = 0;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            row[i].lo = row[i].hi = 0, row[i].top = -infinity, row[i].mass = 0;
            row[i].all.begin();
            const int t = token + i * 8;
            if (t < from || t >= to) continue;
            span(a, t, s, row[i].lo, row[i].hi);
            lo = min(lo, row[i].lo), hi = max(hi, row[i].hi);
        }
        __shared__ int low, high[warpgroups];
        __syncthreads(); // nobody reads what the sequence before left in shared memory
        if (threadIdx.x == 0) low = 1 << 30;
        if (threadIdx.x % 128 == 0) high[group] = 0;
        load_queries(first, from, to);
        __syncthreads();
        atomicMin(&low, lo), atomicMax(&high[group], hi);
        __syncthreads();
        lo = low, hi = max(high[0], high[1]);
        blocks = row_of<int>(a.blocks, s);
        begin = lo / tile_tokens, tiles = (hi + tile_tokens - 1) / tile_tokens;
        const int mine = min(tiles, (high[group] + tile_tokens - 1) / tile_tokens); // of this warpgroup
        int found = find(begin), after = find(begin + 1);
        if (begin < tiles) load(begin, found);
        commit();
        if (begin + 1 < tiles) load(begin + 1, after);
        commit();
        found = find(begin + ahead);
        float w[8][4], o[DIM / 8][4], all[DIM / 8][4];
        u32 p[4][4];
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) all[n][0] = all[n][1] = all[n][2] = all[n][3] = 0;
        int tile = begin;
        if (begin < mine) {
            arrive();
            wgmma_hold(w);
            wgmma_begin();
            begin_logits(w, tile);
            fetch(tile, found);
            wgmma_wait<0>();
            wgmma_hold(w);
            weigh(w, row, tile);
            round(p, w, row);
            for (tile++; tile < mine; tile++) {
                const bool ends = tile % piece_tiles == 0; // the tile before ended a piece
                arrive();
                wgmma_hold(w), wgmma_hold(o);
                wgmma_begin();
                begin_logits(w, tile);
                begin_sums(o, p, tile - 1);
                fetch(tile, found);
                wgmma_wait<1>();
                wgmma_hold(w);
                if (ends) end_piece(row);
                weigh(w, row, tile);
                wgmma_wait<0>();
                wgmma_hold(o);
                if (ends) {
                    fold(all, o, row);
                } else {
#pragma unroll
                    for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                        for (int i = 0; i < 4; i++) o[n][i] *= row[i / 2].keep;
                }
                round(p, w, row);
            }
            wgmma_hold(o);
            wgmma_begin();
            begin_sums(o, p, tile - 1);
            end_piece(row);
            wgmma_wait<0>();
            wgmma_hold(o);
            fold(all, o, row);
        }
        for (; tile < tiles; tile++) arrive(), fetch(tile, found); // the other warpgroup's
        wait<0>();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t = token + i * 8;
            if (t < from || t >= to) continue;
            A* y = row_of<A>(a.out, t) + head * a.dim;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                const int d = n * 8 + lane % 4 * 2;
                if (d >= a.dim) continue;
                const u32 pair = pair_of<A>(row[i].all.result(all[n][2 * i]), row[i].all.result(all[n][2 * i + 1]));
                if (((u64)y & 3) == 0)
                    *(u32*)(y + d) = pair;
                else
                    y[d].bits = (u16)pair, y[d + 1].bits = (u16)(pair >> 16);
            }
        }
    }
};

#define KERNEL(dim)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(threads, 1) prefill_##dim(const attention_args a) {                   \
        extern __shared__ __align__(1024) char shared[];                                                               \
        after_earlier();                                                                                               \
        attention<dim>{a, shared_address(shared)}.prefill();                                                           \
    }

KERNEL(64)
KERNEL(128)
