// The matrix product of sm90_gemm.cu for many tokens: blocks that stay, each with a warpgroup that only loads and two that
// only multiply, so that loads never wait for sums to be finished, nor products for loads to be asked for.
// Shapes  as in gemm.cu; rows of x are aligned to 16 bytes. IN_ROWS as in sm90_gemm.cu.
// Order   as in sm90_gemm.cu: the same bits.
// Tiles   256 packed rows by at most a.most tokens, 64, 128 or 192: what a stage brings from L2 serves 110 products a byte, where
//         256 × 128 has 85. An expert's last tile has 64 or 128 where these do. Of an expert come 8 tiles of rows for all
//         of its tokens, then the next 8, so that what many blocks read lies in L2. A block begins with the tile of its number
//         and goes on with the first that nobody has taken yet: some have fewer tokens.
// Stages  a ring, 64 inputs of a tile each: weights by the copy engine, 8 KB a copy; rows of x that follow each other too, 64 a
//         copy, gathered ones by cp.async. Two barriers a stage: whole (who loads, and what the copy engine brings) and free
//         (all warps that have multiplied it).
// Sums    of 16 bits leave through shared memory by the copy engine, a token's row a copy; all others as in gemm.cuh.
// Launch  as many blocks as multiprocessors, or as tiles where these are fewer. Bound: L2 and tensor cores.
// Checked by TestTilings, optest.Linear and Grouped.
#include "gemm.cuh"
#include "bulk.cuh"
#include "wgmma.cuh"

struct tiles_args {
#ifdef IN_ROWS
    boxes w; // one matrix, 64 inputs by 64 rows
#endif
    boxes x; // 64 inputs by 64 rows, where they are not gathered
    gemm_args g;
    int* tasks; // tiles taken beyond each block's first, blocks that have ended; both 0 before and after
    int plain;  // the sums' rows are of 16 bits, aligned to as many bytes, and nothing but SiLU and gating is done to them
    int pad;
};

// A stage of a ring of SIZE, and how often the ring was gone around, modulo 2.
template <int SIZE> struct place {
    int stage, round;
    void next() {
        if (++stage == SIZE) stage = 0, round ^= 1;
    }
};

// The threads of a warpgroup wait for each other.
inline void meet() { asm volatile("bar.sync %0, 128;" ::"r"((int)threadIdx.x / 128 + 1) : "memory"); }

// The first two warpgroups multiply, each BLOCKS·64 rows of a tile by all of its tokens; the third loads.
template <int BLOCKS, int TOKENS, int STAGES> struct product {
    enum {
        warpgroups = 2,
        loaders = 128,
        blocks = warpgroups * BLOCKS, // of 64 rows, of a tile
        block_bytes = 64 * depth * 2,
        weight_bytes = blocks * block_bytes,
        stage_bytes = weight_bytes + TOKENS * depth * 2,
        near = 8,                                         // tiles of rows that come together
        part = 32,                                        // tokens whose sums are finished at a time in float32
        widest = 128,                                     // tile that this can be done for: more would leave no registers
        pitch = BLOCKS * 128 + 16, most = 96,             // bytes from token to token of sums of 16 bits, tokens at a time
        gated_pitch = BLOCKS * 64 + 16, gated_most = 192,
        sum_bytes = 29952,                                // of a warpgroup
        sums = STAGES * stage_bytes,                      // places in shared memory
        tiles = sums + warpgroups * sum_bytes,
        whole = tiles + STAGES * 16,
        free = whole + STAGES * 8,
        taken = free + STAGES * 8
    };
    static_assert(most * pitch <= sum_bytes && gated_most * gated_pitch <= sum_bytes && part * (BLOCKS * 64 + 4) * 4 <= sum_bytes, "room for sums");
    static_assert(blocks <= 4 && TOKENS == 192 && taken + 16 <= 232448, "loading warps; lanes that find rows; what a block can have");
    using sums_of = sums_to_y<BLOCKS * 64, 128>;

    // A tile of tokens, from the row first of y on, and the number of its first 64 rows of weights. No rows: there is none.
    struct work { int expert, first, rows, block; };

    const tiles_args& all;
    const gemm_args& a;
    char* shared;
    const u32 at;        // shared's address
    const int tile_rows; // tiles that make the matrix's rows

    product(const tiles_args& all, char* shared)
        : all(all), a(all.g), shared(shared), at(shared_address(shared)), tile_rows((a.padded_rows / 64 + blocks - 1) / blocks) {}

    int steps() const { return a.padded_in / depth; }
    bool gathered() const { return a.index != nullptr; }

    // The number-th tile. All threads of a warp call.
    work find(int number) const {
        const share s = find_share(a.offsets, a.experts, a.rows, a.most, tile_rows, number);
        const int wide = (s.end - s.first + a.most - 1) / a.most;
        if (s.number >= wide * tile_rows) return {0, 0, 0, 0};
        const int group = s.number / (near * wide), in = s.number - group * near * wide, high = min((int)near, tile_rows - group * near);
        const int first = s.first + in / high * a.most;
        return {s.expert, first, min(a.most, s.end - first), (group * near + in % high) * blocks};
    }

    void run() {
#ifdef IN_ROWS
        if (threadIdx.x == 0) fetch_boxes(all.w), fetch_boxes(all.x);
#endif
        const bool ragged = a.offsets != nullptr; // else the first weights follow from nothing that was computed
        if (ragged) after_earlier();
        if (threadIdx.x == 0) {
            for (int s = 0; s < STAGES; s++) {
                begin_barrier(at + whole + s * 8, gathered() ? loaders + 1 : 1);
                begin_barrier(at + free + s * 8, warpgroups * 4);
            }
            publish();
        }
        __syncthreads();
        if (threadIdx.x >= warpgroups * 128) {
            give_registers<56>();
            load(ragged);
        } else {
            take_registers<224>();
            if (!ragged) after_earlier();
            multiply_all();
        }
    }

    // Where the 64 rows of weights of a tile lie that a loading warp copies; none where it has none.
    const char* weights_of(const work& t, int warp) const {
        const int b = t.block + warp;
        if (warp >= blocks || b >= a.padded_rows / 64) return nullptr; // what lies in their place stays: nobody reads their sums
        return (const char*)a.w + ((i64)t.expert * (a.padded_rows / 64) + b) * steps() * block_bytes;
    }

    // By one thread of each loading warp: its weights of a step. The first one tells which tile they are of, and how much comes.
    void load_weights(const work& t, const char* w, int warp, int step, int stage) const {
        const u32 barrier = at + whole + stage * 8;
        if (warp == 0) {
            if (step == 0) *(work*)(shared + tiles + stage * 16) = t;
            const int tokens = gathered() ? 0 : (t.rows + 63) / 64 * 64;
            expect(barrier, min(a.padded_rows / 64 - t.block, (int)blocks) * block_bytes + tokens * depth * 2);
        }
        if (w == nullptr) return;
#ifdef IN_ROWS
        copy_box(at + stage * stage_bytes + warp * block_bytes, all.w, step * depth, (t.block + warp) * 64, barrier);
#else
        copy_bulk(at + stage * stage_bytes + warp * block_bytes, w + (i64)step * block_bytes, block_bytes, barrier);
#endif
    }

    // How far the row of x for a tile's row lies from the first, in pieces of 16 bytes.
    u32 source(const work& t, int row) const {
        if (row >= t.rows) return 0; // computed and thrown away
        int from = a.index[t.first + row] / a.div;
        if (from < 0 || from >= a.tokens) {
            note_fault(a.fault, a.op, from, t.first + row);
            from = 0;
        }
        return (u32)((u64)from * a.x.stride / 8);
    }

    // By 128 threads.
    void load(bool ragged) {
        const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
        int early = 0; // steps whose weights are on their way
        work t = find(blockIdx.x);
        if (!ragged) {
            if (lane == 0 && t.rows > 0) {
                const char* w = weights_of(t, warp);
#pragma unroll 1
                for (; early < min((int)STAGES, steps()); early++) load_weights(t, w, warp, early, early);
            }
            after_earlier();
        }
        place<STAGES> p = {0, 0};
        while (t.rows > 0) {
            int next;
            if (thread == 0) next = gridDim.x + atomicAdd(all.tasks, 1); // by the time that it is needed
            const char* w = weights_of(t, warp);
            if (gathered()) load_gathered(t, w, p);
            else load_rows(t, w, p, early);
            if (thread == 0) *(int*)(shared + taken) = next;
            meet();
            next = *(const int*)(shared + taken);
            meet();
            t = find(next);
        }
        wait_barrier(at + free + p.stage * 8, p.round ^ 1);
        if (thread == 0) { // a stage that tells the end
            *(work*)(shared + tiles + p.stage * 16) = t;
            arrive(at + whole + p.stage * 8);
            if (atomicAdd(all.tasks + 1, 1) == gridDim.x - 1) all.tasks[0] = 0, all.tasks[1] = 0; // nobody takes a tile any more
        }
        if (gathered()) arrive(at + whole + p.stage * 8);
    }

    // Loads a tile whose rows of x follow each other: a warp 64 of them, by one thread.
    void load_rows(const work& t, const char* w, place<STAGES>& p, int& early) const {
        const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        if (lane == 0 && t.first + t.rows > a.tokens) note_fault(a.fault, a.op, a.tokens, a.tokens); // zeros, to the copy engine
        for (int step = 0; step < steps(); step++, p.next()) {
            if (lane > 0) continue;
            wait_barrier(at + free + p.stage * 8, p.round ^ 1);
            if (early-- <= 0) load_weights(t, w, warp, step, p.stage);
            if (warp * 64 < t.rows)
                copy_box(at + p.stage * stage_bytes + weight_bytes + warp * 64 * depth * 2, all.x, step * depth, t.first + warp * 64, at + whole + p.stage * 8);
        }
        __syncwarp();
    }

    // Loads a tile whose rows of x are gathered. 8 threads copy a row's 128 bytes: at a time a warp the rows i·16 + warp·4 +
    // (0 … 3), which its lanes have found, each two of them.
    void load_gathered(const work& t, const char* w, place<STAGES>& p) const {
        const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, piece = thread % 8;
        const int row = lane / 4 * 16 + warp * 4 + lane % 4;
        const u32 found[2] = {source(t, row), source(t, row + 128)};
        u32 away[TOKENS / 16];
#pragma unroll
        for (int i = 0; i < TOKENS / 16; i++) away[i] = __shfl_sync(0xffffffffu, found[i / 8], i % 8 * 4 + lane / 8);
        for (int step = 0; step < steps(); step++, p.next()) {
            wait_barrier(at + free + p.stage * 8, p.round ^ 1);
            if (lane == 0) load_weights(t, w, warp, step, p.stage);
            __syncwarp();
            const int k = step * depth + piece * 8, bytes = max(0, min(16, (a.in - k) * 2));
            const char* from = (const char*)a.x.data + (bytes > 0 ? k * 2 : 0);
            const u32 to = at + p.stage * stage_bytes + weight_bytes + thread / 8 * (depth * 2) + ((piece ^ thread / 8 % 8) << 4);
#pragma unroll
            for (int g = 0; g < TOKENS / 64; g++)
                if (g * 64 < t.rows) {
#pragma unroll
                    for (int i = g * 4; i < g * 4 + 4; i++) copy16(to + i * 16 * (depth * 2), from + (u64)away[i] * 16, bytes);
                }
            arrive_after_copies(at + whole + p.stage * 8);
        }
    }

    // By a multiplying warpgroup: its rows of all tiles.
    void multiply_all() {
        place<STAGES> p = {0, 0};
        for (;;) {
            wait_barrier(at + whole + p.stage * 8, p.round);
            const work t = *(const work*)(shared + tiles + p.stage * 16);
            if (t.rows == 0) break;
            if (t.rows <= 64) multiply<64>(t, p);
            else if (t.rows <= 128) multiply<128>(t, p);
            else multiply<192>(t, p);
        }
        wait_out();
    }

    // Begins the products of a step with N tokens.
    template <int N, bool FIRST> void step(float (&c)[BLOCKS][N / 8][4], const place<STAGES>& p) const {
        wait_barrier(at + whole + p.stage * 8, p.round);
        publish(); // the tokens, where they came by cp.async
        const u32 from = at + p.stage * stage_bytes, weights = from + threadIdx.x / 128 * BLOCKS * block_bytes, tokens = from + weight_bytes;
        if constexpr (!FIRST) hold(c);
        wgmma_begin();
#pragma unroll
        for (int k16 = 0; k16 < depth / 16; k16++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                wgmma<A, N>::run(!FIRST || k16 > 0, c[b], weights_operand(weights + b * block_bytes, k16), swizzled_operand(tokens + k16 * 32));
        wgmma_commit();
    }

    template <int N> static void hold(float (&c)[BLOCKS][N][4]) {
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) wgmma_hold(c[b]);
    }

    void release(int stage) const {
        if (threadIdx.x % 32 == 0) arrive(at + free + stage * 8);
    }

    // A tile of up to N tokens. The first step is apart, so that its products need no sums before them: else those of all
    // widths would occupy registers all the time.
    template <int N> void multiply(const work& t, place<STAGES>& p) {
        float c[BLOCKS][N / 8][4];
        step<N, true>(c, p);
        int before = p.stage;
        p.next();
        for (int s = 1; s < steps(); s++) {
            step<N, false>(c, p);
            wgmma_wait<1>();
            hold(c);
            release(before);
            before = p.stage;
            p.next();
        }
        wgmma_wait<0>();
        hold(c);
        release(before);
        if constexpr (N <= widest)
            if (!all.plain) return write_sums<N>(c, t);
        if (a.gated) write_pairs<N, true>(c, t);
        else write_pairs<N, false>(c, t);
    }

    u32 room() const { return sums + threadIdx.x / 128 * sum_bytes; } // of this warpgroup, in shared memory

    // Sums of 16 bits, up to MOST tokens at a time.
    template <int N, bool GATED> void write_pairs(float (&c)[BLOCKS][N / 8][4], const work& t) {
        enum { MOST = GATED ? gated_most : most, PITCH = GATED ? gated_pitch : pitch, OUTS = GATED ? BLOCKS * 32 : BLOCKS * 64 };
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        const int column = (t.block / BLOCKS + threadIdx.x / 128) * OUTS, bytes = min((int)OUTS, a.out - column) * 2;
#pragma unroll
        for (int q = 0; q < N; q += MOST) {
            if (q >= t.rows) break;
            wait_for_room();
            meet();
#pragma unroll
            for (int n = q / 8; n < min(q + MOST, N) / 8; n += GATED ? 4 : 2)
#pragma unroll
                for (int b = 0; b < BLOCKS; b++) {
                    const u32 to = at + room() + (n * 8 - q) * PITCH;
                    if (GATED) { // a lane's registers 0 and 1 are gates, 2 and 3 what they are for
                        u32 r[4];
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            r[i] = pair_of<A>(silu(c[b][n + i][0]) * c[b][n + i][2], silu(c[b][n + i][1]) * c[b][n + i][3]);
                        store_transposed(to + lane * PITCH + (b * 32 + warp * 8) * 2, r[0], r[1], r[2], r[3]);
                    } else {
                        store_transposed(to + (lane / 16 * 8 + lane % 8) * PITCH + (b * 64 + warp * 16 + lane / 8 % 2 * 8) * 2,
                                         pair_of<A>(c[b][n][0], c[b][n][1]), pair_of<A>(c[b][n][2], c[b][n][3]),
                                         pair_of<A>(c[b][n + 1][0], c[b][n + 1][1]), pair_of<A>(c[b][n + 1][2], c[b][n + 1][3]));
                    }
                }
            publish();
            meet();
#pragma unroll 1
            for (int token = threadIdx.x % 128; token < min((int)MOST, t.rows - q); token += 128)
                if (bytes > 0) copy_out(row_of<A>(a.y, t.first + q + token) + column, at + room() + token * PITCH, bytes);
            commit_out();
        }
    }

    // Sums of any kind, in float32, part tokens at a time.
    template <int N> void write_sums(float (&c)[BLOCKS][N / 8][4], const work& t) {
        const int warp = threadIdx.x / 32 % 4;
        const sums_of out = {a, (float*)(shared + room()), (int)threadIdx.x % 128, t.expert, t.block * 64 + (int)threadIdx.x / 128 * BLOCKS * 64};
#pragma unroll 1
        for (int q = 0; q < N / part && q * part < t.rows; q++) {
            meet();
#pragma unroll
            for (int i = 0; i < N / part; i++) { // sums are in registers, which have no index
                if (i != q) continue;
#pragma unroll
                for (int b = 0; b < BLOCKS; b++)
#pragma unroll
                    for (int n = 0; n < part / 8; n++) out.put(c[b][i * (part / 8) + n], b * 4 + warp, n * 8);
            }
            meet();
            out.write(t.first + q * part, min((int)part, t.rows - q * part));
        }
    }
};

#define KERNEL(name, ...)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(384, 1) name(const __grid_constant__ tiles_args a) {                      \
        extern __shared__ __align__(1024) char shared[];                                                                   \
        product<__VA_ARGS__>(a, shared).run(); /* which calls after_earlier */                                             \
    }

KERNEL(gemm_256, 2, 192, 3)
