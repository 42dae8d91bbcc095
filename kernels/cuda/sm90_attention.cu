// Attention of prompts on Hopper: what prefill of attention_mma.cu computes, by wgmma. Blocks stay, each with a warpgroup that
// only loads and two that only compute, so that a tile's loads, the start of a block's next task and the end of its last one
// run beside products, and one warpgroup's weights beside the other's products.
// Shapes  as in attention.cuh. Order: as there. wgmma adds 16 products at a time to a sum as mma.sync does, to the same bits
//         (seen on an H100: 65 million sums of bf16 and f16, subnormals and infinities among them), so that a token may be
//         another kernel's in its prompt than alone.
// Tasks   128 tokens of one head, 64 a warpgroup; for sequences with several tokens in the step, one after the other. The last
//         tokens come first; a block takes the next task from a counter, which the last block sets back.
// Tiles   64 positions. The weights of a tile are made while those of the one before meet V. q is in registers as wgmma's A.
// Stages  a ring of tiles of K and V by cp.async, in swizzled halves of 64 dimensions. Two barriers a stage: whole (all loading
//         threads, once their copies are there) and free (all computing warps); and such a pair for a task and its q.
// Launch  at most as many blocks as multiprocessors, of 384 threads. Bound: tensor cores. Checked by optest.Attention.
#include "attention.cuh"
#include "bulk.cuh"
#include "wgmma.cuh"

enum { warpgroups = 2, tile_rows = warpgroups * 64, stages = 4, loaders = 128, threads = warpgroups * 128 + loaders };

// The stages, and how often a warp went around them, modulo 2.
struct ring {
    int stage, round;
    void next() {
        if (++stage == stages) stage = 0, round ^= 1;
    }
};

// A row of a thread: what it sees, and its sums of the piece at hand and of those before.
struct row_state {
    int lo, hi;
    float top, keep; // keep: of the last tile's weights
#if defined(ALIBI)
    float lean; // of the task's head
#endif
    row_mass mass;
    row_sum all;
};

// A row of a task: what it sees, the first row after those of its sequence, and its sequence; -1: it is no prompt's.
struct __align__(16) task_row {
    int lo, hi, end, seq;
};

// What some rows see: of all positions, and up to which those of one warpgroup see.
struct extent {
    int lo, hi, high;
};

template <int DIM> struct attention {
    enum {
        pieces = DIM / 8, // of 16 bytes of a row
        kv_half = tile_tokens * 128,
        tile_bytes = tile_tokens * DIM * 2,
        stage_bytes = 2 * tile_bytes,
        q_half = tile_rows * 128,
        queries = stages * stage_bytes, // places in shared memory
        kept = queries + tile_rows * DIM * 2,
        kept_bytes = 16 * DIM * 4, // of a warp: sums of earlier pieces, then a task's results
        rows = kept + warpgroups * 4 * kept_bytes, // of the task: task_row
        task = rows + tile_rows * 16,
        next_task = task + 8,
        whole = task + 16,
        free = whole + stages * 8,
        given = free + stages * 8,
        taken = given + 8,
        bytes = taken + 8
    };
    static_assert(bytes <= 232448, "what a block can have");

    const attention_args& a;
    char* shared;
    const u32 at; // shared's address

    attention(const attention_args& a, char* shared) : a(a), shared(shared), at(shared_address(shared)) {}

    int tiles_of_tokens() const { return (a.tokens + tile_rows - 1) / tile_rows; }
    int first_token(int number) const { return (tiles_of_tokens() - 1 - number / a.heads) * tile_rows; } // of the number-th task
    int head_of(int number) const { return number % a.heads; }

    static u32 place(int row, int piece) { return row * 128 + ((piece ^ row % 8) << 4); }

    void run() {
        if (threadIdx.x == 0) {
            for (int s = 0; s < stages; s++) begin_barrier(at + whole + s * 8, loaders), begin_barrier(at + free + s * 8, warpgroups * 4);
            begin_barrier(at + given, 2 * loaders), begin_barrier(at + taken, warpgroups * 4);
            publish();
        }
        __syncthreads();
        if (threadIdx.x >= warpgroups * 128) {
            give_registers<88>();
            load_all();
        } else {
            take_registers<208>();
            attend_all();
        }
    }

    // By the loading warpgroup: tasks, one after the other, q and then K and V of each sequence that has rows in it.
    void load_all() {
        const int thread = threadIdx.x - warpgroups * 128, all = tiles_of_tokens() * a.heads;
        ring p = {0, 0};
        int number = blockIdx.x;
        for (int turn = 0;; turn++) {
            wait_barrier(at + taken, turn & 1 ^ 1);
            if (thread == 0) *(int*)(shared + task) = number < all ? number : -1;
            if (number >= all) break;
            int next = 0;
            if (thread == 0) next = gridDim.x + atomicAdd(a.tasks, 1); // by the time that it is needed
            const int first = first_token(number), head = head_of(number), end = min(a.tokens, first + tile_rows);
            load_queries(thread, first, end, head);
            describe(thread, first, end);
            arrive(at + given);
            arrive_after_copies(at + given);
            asm volatile("bar.sync 1, 128;" ::: "memory");
            for (int from = 0, to; from < end - first; from = to) {
                const int seq = row_at(from).seq;
                to = row_at(from).end;
                if (seq >= 0) load_sequence(thread, seq, extent_of(from, to, 0), head / (a.heads / a.kv_heads), p);
            }
            if (thread == 0) *(int*)(shared + next_task + turn % 2 * 4) = next;
            asm volatile("bar.sync 1, 128;" ::: "memory");
            number = *(volatile int*)(shared + next_task + turn % 2 * 4);
        }
        arrive(at + given), arrive_after_copies(at + given);
        commit();
        wait<0>();
        if (thread == 0 && atomicAdd(a.tasks + 1, 1) == gridDim.x - 1) a.tasks[0] = 0, a.tasks[1] = 0; // nobody takes a task any more
    }

    // A thread a row: the loading threads wait for this while there is other work, the computing ones need not.
    void describe(int thread, int first, int end) const {
        const int t = first + thread;
        task_row r = {0, 0, tile_rows, -1};
        if (t < end) {
            const int s = a.seq[t], from = a.start[s], to = a.start[s + 1];
            r.end = min(end, to) - first;
            if (to - from > 1) r.seq = s, span(a, t, s, r.lo, r.hi);
        }
        row_at(thread) = r;
    }

    task_row& row_at(int row) const { return ((task_row*)(shared + rows))[row]; }

    // Of a task's rows [from, to). All threads of a warp call.
    extent extent_of(int from, int to, int half) const {
        extent x = {1 << 30, 0, 0};
#pragma unroll
        for (int i = 0; i < tile_rows / 32; i++) {
            const int r = threadIdx.x % 32 + i * 32;
            const task_row row = row_at(r);
            if (r < from || r >= to) continue;
            x.lo = min(x.lo, row.lo), x.hi = max(x.hi, row.hi);
            if (r / 64 == half) x.high = max(x.high, row.hi);
        }
        x.lo = __reduce_min_sync(0xffffffffu, x.lo), x.hi = __reduce_max_sync(0xffffffffu, x.hi);
        x.high = __reduce_max_sync(0xffffffffu, x.high);
        return x;
    }

    void load_queries(int thread, int first, int end, int head) const {
#pragma unroll 4
        for (int i = thread; i < tile_rows * pieces; i += loaders) {
            const int row = i / pieces, piece = i % pieces;
            const bool valid = first + row < end && piece * 8 < a.dim;
            const A* q = row_of<A>(a.q, valid ? first + row : first) + head * a.dim + (valid ? piece * 8 : 0);
            const u32 to = at + queries + piece / 8 * q_half + place(row, piece % 8);
            if (aligned(q)) {
                copy16(to, q, valid ? 16 : 0);
                continue;
            }
            u32 x[4] = {};
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (valid) x[j] = (u32)q[2 * j].bits | (u32)q[2 * j + 1].bits << 16;
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
        }
    }

    // K and V of what rows of a sequence see. A warp has 16 positions of a tile, whose places its lanes find a tile ahead; a row
    // of K and its row of V are copied by 2·pieces lanes at once.
    void load_sequence(int thread, int s, const extent& x, int kv_head, ring& p) const {
        enum { at_once = 32 / (2 * pieces) };
        const int warp = thread / 32, lane = thread % 32, piece = lane % pieces, v = lane / pieces % 2, sub = lane / (2 * pieces);
        const int* blocks = row_of<int>(a.blocks, s);
        auto find = [&](int tile) { return cache_row(a, blocks, kv_head, tile * tile_tokens + warp * 16 + lane % 16, x.lo, x.hi); };
        const int tiles = (x.hi + tile_tokens - 1) / tile_tokens;
        const u32 row_bytes = a.dim * 2, to = at + v * tile_bytes + piece / 8 * kv_half + warp * 16 * 128;
        const char* kv = (const char*)a.cache + (i64)v * a.block_tokens * row_bytes + piece * 16;
        int found = find(x.lo / tile_tokens);
        for (int tile = x.lo / tile_tokens; tile < tiles; tile++, p.next()) {
            const int here = found;
            found = find(tile + 1);
            wait_barrier(at + free + p.stage * 8, p.round ^ 1);
            const u32 stage = to + p.stage * stage_bytes;
            if (a.dim == DIM && __all_sync(0xffffffffu, here >= 0)) {
#pragma unroll
                for (int i = 0; i < 16; i += at_once)
                    copy16(stage + place(i + sub, piece % 8), kv + (u64)(u32)__shfl_sync(0xffffffffu, here, i + sub) * row_bytes, 16);
            } else {
#pragma unroll
                for (int i = 0; i < 16; i += at_once) {
                    const int row = __shfl_sync(0xffffffffu, here, i + sub);
                    const bool valid = row >= 0 && piece * 8 < a.dim;
                    copy16(stage + place(i + sub, piece % 8), valid ? kv + (u64)(u32)row * row_bytes : (const char*)a.cache, valid ? 16 : 0);
                }
            }
            arrive_after_copies(at + whole + p.stage * 8);
        }
    }

    // By a computing warpgroup: its rows of all tasks. It has the other half of the next task's, so that each has the
    // longer rows of a prompt as often.
    void attend_all() {
        ring p = {0, 0};
        for (int turn = 0;; turn++) {
            wait_barrier(at + given, turn & 1);
            const int number = *(volatile int*)(shared + task);
            if (number < 0) return;
            const int lane = threadIdx.x % 32, half = (turn ^ threadIdx.x / 128) & 1, mine = half * 64 + threadIdx.x % 128 / 32 * 16; // a warp's 16 rows
            u32 q[DIM / 16][4];
#pragma unroll
            for (int d = 0; d < DIM / 16; d++)
                load_matrices(q[d], at + queries + d / 4 * q_half + place(mine + lane % 16, d % 4 * 2 + lane / 16));
            const int first = first_token(number), count = min(a.tokens - first, (int)tile_rows);
            for (int from = 0, to; from < count; from = to) {
                const bool prompt = row_at(from).seq >= 0;
                to = row_at(from).end;
                const extent x = extent_of(from, to, half);
                row_state row[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int r = mine + lane / 4 + i * 8;
                    row[i].lo = row[i].hi = 0, row[i].top = -infinity, row[i].mass.begin();
                    row[i].all.begin();
                    if (r >= from && r < to) row[i].lo = row_at(r).lo, row[i].hi = row_at(r).hi;
#if defined(ALIBI)
                    row[i].lean = lean_of(a, head_of(number));
#endif
                }
                if (to >= count) release(taken);
                if (prompt) attend(q, row, x, from, to, mine, first, head_of(number), p);
            }
        }
    }

    // This warp needs what a barrier stands for no more.
    void release(u32 barrier) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) arrive(at + barrier);
    }

    void await(const ring& p) const {
        wait_barrier(at + whole + p.stage * 8, p.round);
        publish(); // what came by cp.async
    }

    // s = q · kᵀ, under way.
    void begin_logits(float (&s)[8][4], const u32 (&q)[DIM / 16][4], int stage) const {
        const u64 k = swizzled_operand(at + stage * stage_bytes);
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) wgmma_rows<A, 64, false>::run(d > 0, s, q[d], k + (d / 4 * kv_half + d % 4 * 32) / 16);
        wgmma_commit();
    }

    // o (+)= p · v, under way.
    void begin_sums(bool add, float (&o)[DIM / 8][4], const u32 (&p)[4][4], int stage) const {
        const u64 v = wide_operand(at + stage * stage_bytes + tile_bytes, kv_half);
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_rows<A, DIM, true>::run(add || k > 0, o, p[k], v + k * 2048 / 16);
        wgmma_commit();
    }

    // Logits become weights, summed and not rounded yet.
    void weigh(float (&s)[8][4], row_state (&row)[2], int tile) const {
        const int first = tile * tile_tokens + threadIdx.x % 4 * 2;
#if defined(ALIBI)
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = leant(s[n][i], row[i / 2].lean, first + n * 8 + i % 2 - (row[i / 2].hi - 1));
#endif
        bool all = true;
#pragma unroll
        for (int i = 0; i < 2; i++) all = all && tile * tile_tokens >= row[i].lo && (tile + 1) * tile_tokens <= row[i].hi;
        if (!__all_sync(0xffffffffu, all)) {
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
            row[i].keep = raise(row[i].top, quad_max(most), a.scale);
            const float shift = shift_of(row[i].top, a.scale);
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) s[n][2 * i + j] = weight(s[n][2 * i + j], a.scale, shift);
#pragma unroll
            for (int k = 0; k < 4; k++)
                row_mass::add(row[i].mass.of[k], row[i].keep, s[2 * k][2 * i], s[2 * k][2 * i + 1], s[2 * k + 1][2 * i], s[2 * k + 1][2 * i + 1]);
        }
    }

    static void round(u32 (&p)[4][4], const float (&s)[8][4]) {
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) p[k][i] = pair_of<A>(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
    }

    // The piece's sums, which o will hold, come to those before.
    void end_piece(row_state (&row)[2]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            row[i].all.fold(row[i].top, row[i].mass.all(), a.scale);
            row[i].top = -infinity, row[i].mass.begin();
        }
    }

    char* kept_here() const { return shared + kept + threadIdx.x / 32 * kept_bytes; } // of this warp

    // o, a piece's sums, come to those of the pieces before, which are kept unless there are none.
    void fold(float (&o)[DIM / 8][4], const row_state (&row)[2], bool none) const {
        const float4* before = (const float4*)kept_here() + threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            const float4 x = none ? make_float4(0, 0, 0, 0) : before[n * 32];
            o[n][0] = row[0].all.folded(x.x, o[n][0]), o[n][1] = row[0].all.folded(x.y, o[n][1]);
            o[n][2] = row[1].all.folded(x.z, o[n][2]), o[n][3] = row[1].all.folded(x.w, o[n][3]);
        }
    }

    void keep(const float (&o)[DIM / 8][4]) const {
        float4* to = (float4*)kept_here() + threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) to[n * 32] = make_float4(o[n][0], o[n][1], o[n][2], o[n][3]);
    }

    // The warp's rows `mine` … of a task, of which [from, to) are of the sequence at hand.
    void attend(const u32 (&q)[DIM / 16][4], row_state (&row)[2], const extent& x, int from, int to, int mine, int first, int head, ring& p) const {
        const int begin = x.lo / tile_tokens, tiles = (x.hi + tile_tokens - 1) / tile_tokens;
        const int end = min(tiles, (x.high + tile_tokens - 1) / tile_tokens); // of this warpgroup
        float w[8][4], o[DIM / 8][4];
        u32 rounded[4][4];
        int tile = begin;
        bool fresh = true; // no piece is kept
        if (begin < end) {
            await(p);
            wgmma_begin();
            begin_logits(w, q, p.stage);
            wgmma_wait<0>();
            wgmma_hold(w);
            weigh(w, row, tile);
            round(rounded, w);
            int before = p.stage;
            p.next();
            if (begin + 1 < end) await(p);
            // Before the weights of tile t meet V, the sums of those before are lowered, or kept where a piece ended.
            auto settle = [&](int t) {
                if (t == begin) return;
                if (t % piece_tiles == 0) {
                    fold(o, row, fresh), keep(o);
                    fresh = false;
                    return;
                }
#pragma unroll
                for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) o[n][i] *= row[i / 2].keep;
            };
            for (tile++; tile < end; tile++) {
                wgmma_hold(w);
                wgmma_begin();
                begin_logits(w, q, p.stage);
                wgmma_hold(o); // settled beside the logits
                settle(tile - 1);
                wgmma_hold(o);
                wgmma_begin();
                begin_sums((tile - 1) % piece_tiles != 0 && tile - 1 != begin, o, rounded, before);
                wgmma_wait<1>();
                wgmma_hold(w);
                if (tile % piece_tiles == 0) end_piece(row); // with the tile before
                weigh(w, row, tile);
                wgmma_hold(w);
                const int done = before;
                before = p.stage;
                p.next();
                if (tile + 1 < end) await(p); // here, so that ptxas leaves what is above beside the sums under way
                wgmma_wait<0>();
                wgmma_hold(o);
                release(free + done * 8);
                round(rounded, w);
            }
            settle(tile - 1);
            wgmma_hold(o);
            wgmma_begin();
            begin_sums((tile - 1) % piece_tiles != 0 && tile - 1 != begin, o, rounded, before);
            end_piece(row);
            wgmma_wait<0>();
            wgmma_hold(o);
            release(free + before * 8);
            fold(o, row, fresh);
        } else {
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0; // rows that see nothing
        }
        for (; tile < tiles; tile++, p.next()) { // the other warpgroup's
            wait_barrier(at + whole + p.stage * 8, p.round);
            release(free + p.stage * 8);
        }
#if defined(SINKS)
        row[0].all.sink(sink_of(a, head, a.scale), a.scale), row[1].all.sink(sink_of(a, head, a.scale), a.scale);
#endif
        store(o, row, from, to, mine, first, head);
    }

    // Results go by way of shared memory, so that a row is written in pieces of 16 bytes next to each other.
    void store(const float (&o)[DIM / 8][4], const row_state (&row)[2], int from, int to, int mine, int first, int head) const {
        const int lane = threadIdx.x % 32;
        char* rows = kept_here();
        __syncwarp(); // nobody reads there what was kept, or stored, before
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = lane / 4 + i * 8;
            const float inverse = row[i].all.inverse();
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
                *(u32*)(rows + r * DIM * 2 + ((n ^ r % 8) << 4) + lane % 4 * 4) =
                    pair_of<A>(row_sum::result(o[n][2 * i], inverse), row_sum::result(o[n][2 * i + 1], inverse));
        }
        __syncwarp();
        const int piece = lane % pieces;
#pragma unroll
        for (int i = 0; i < 16; i += 32 / pieces) {
            const int r = i + lane / pieces;
            if (mine + r < from || mine + r >= to || piece * 8 >= a.dim) continue;
            union { uint4 all; A each[8]; } x;
            x.all = *(const uint4*)(rows + r * DIM * 2 + ((piece ^ r % 8) << 4));
            A* y = row_of<A>(a.out, first + mine + r) + head * a.dim + piece * 8;
            if (aligned(y)) {
                *(uint4*)y = x.all;
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++) y[j] = x.each[j];
            }
        }
        __syncwarp(); // before others' sums are kept in their place
    }
};

#define KERNEL(dim)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(threads, 1) prefill_##dim(const attention_args a) {                   \
        extern __shared__ __align__(1024) char shared[];                                                               \
        after_earlier();                                                                                               \
        attention<dim>(a, shared).run();                                                                               \
    }

KERNEL(64)
KERNEL(128)
