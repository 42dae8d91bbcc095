// The matrix product of sm90_gemm.cu for many tokens: blocks that stay, each with a warpgroup that only loads and two that
// only multiply, so that loads never wait for sums to be finished, nor products for loads to be asked for.
// Shapes  as in gemm.cu; rows of x are aligned to 16 bytes.
// Order   as in sm90_gemm.cu: the same bits.
// Tiles   256 packed rows by at most a.most tokens, 64 or 128. Of n blocks the b-th works on the tiles b, b + n, …, rows
//         fastest. An expert's last tile has 64 where these do.
// Stages  a ring, 64 inputs of a tile each: weights by the copy engine, 8 KB a copy, tokens by cp.async. Two barriers a
//         stage: whole (all loading threads, once their copies are there) and free (all warps that have multiplied it).
// Launch  as many blocks as multiprocessors, or as tiles where these are fewer. Bound: L2 and tensor cores.
// Checked by TestTilings, optest.Linear and Grouped.
#include "gemm.cuh"
#include "bulk.cuh"
#include "wgmma.cuh"

// A stage of a ring of SIZE, and how often the ring was gone around, modulo 2.
template <int SIZE> struct place {
    int stage, round;
    void next() {
        if (++stage == SIZE) stage = 0, round ^= 1;
    }
};

// The threads of the number-th warpgroup wait for each other.
inline void meet(int number) { asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory"); }

// The first two warpgroups multiply, each BLOCKS·64 rows of a tile by all of its tokens; the third loads.
template <int BLOCKS, int TOKENS, int STAGES> struct product {
    enum {
        warpgroups = 2,
        blocks = warpgroups * BLOCKS, // of 64 rows, of a tile
        block_bytes = 64 * depth * 2,
        weight_bytes = blocks * block_bytes,
        stage_bytes = weight_bytes + TOKENS * depth * 2,
        part = 64 / BLOCKS, // tokens whose sums are finished at a time
        sum_bytes = part * (BLOCKS * 64 + 4) * 4,
        sums = STAGES * stage_bytes, // places in shared memory
        tiles = sums + warpgroups * sum_bytes,
        whole = tiles + STAGES * 16,
        free = whole + STAGES * 8,
        loaders = 128
    };
    static_assert(blocks <= 4 && TOKENS == 128 && free + STAGES * 8 <= 232448, "loading warps; lanes that find rows; what a block can have");
    using sums_of = sums_to_y<BLOCKS * 64, 128>;

    const gemm_args& a;
    char* shared;
    const u32 at;        // shared's address
    int tile_rows, mine; // tiles that make the matrix's rows; tiles of this block

    product(const gemm_args& a, char* shared) : a(a), shared(shared), at(shared_address(shared)), tile_rows((a.padded_rows / 64 + blocks - 1) / blocks) {}

    int steps() const { return a.padded_in / depth; }
    int number(int turn) const { return blockIdx.x + turn * gridDim.x; } // of the block's turn-th tile
    int first_block(int turn) const { return number(turn) % tile_rows * blocks; }
    tile tile_of(int turn) const { return find_tile(a.offsets, a.experts, a.rows, a.most, number(turn) / tile_rows); }

    void run() {
        const bool ragged = a.offsets != nullptr; // else the first weights follow from nothing that was computed
        if (ragged) after_earlier();
        if (threadIdx.x == 0) {
            for (int s = 0; s < STAGES; s++) begin_barrier(at + whole + s * 8, loaders + 1), begin_barrier(at + free + s * 8, warpgroups * 4);
            publish();
        }
        const int all = count_tiles(a.offsets, a.experts, a.rows, a.most) * tile_rows;
        mine = all > (int)blockIdx.x ? (all - 1 - (int)blockIdx.x) / (int)gridDim.x + 1 : 0;
        __syncthreads();
        if (threadIdx.x >= warpgroups * 128) {
            give_registers<88>();
            load(ragged);
        } else {
            take_registers<208>();
            if (!ragged) after_earlier();
            multiply_all(threadIdx.x / 128);
        }
    }

    // Where the 64 rows of weights of a tile lie that a loading warp copies; none where it has none.
    const char* weights_of(const tile& t, int first, int warp) const {
        const int b = first + warp;
        if (warp >= blocks || b >= a.padded_rows / 64) return nullptr; // what lies in their place stays: nobody reads their sums
        return (const char*)a.w + ((i64)t.expert * (a.padded_rows / 64) + b) * steps() * block_bytes;
    }

    // By one thread of each loading warp: its weights of a step. The first one tells which tile they are of, and how much comes.
    void load_weights(const tile& t, const char* w, int first, int warp, int step, int stage) const {
        const u32 barrier = at + whole + stage * 8;
        if (warp == 0) {
            if (step == 0) *(int4*)(shared + tiles + stage * 16) = make_int4(t.expert, t.first, t.rows, 0);
            expect(barrier, min(a.padded_rows / 64 - first, (int)blocks) * block_bytes);
        }
        if (w != nullptr) copy_bulk(at + stage * stage_bytes + warp * block_bytes, w + (i64)step * block_bytes, block_bytes, barrier);
    }

    // How far the row of x for a tile's row lies from the first, in pieces of 16 bytes.
    u32 source(const tile& t, int row) const {
        if (row >= t.rows) return 0; // computed and thrown away
        int from = t.first + row;
        if (a.index != nullptr) from = a.index[from] / a.div;
        if (from < 0 || from >= a.tokens) {
            note_fault(a.fault, a.op, from, t.first + row);
            from = 0;
        }
        return (u32)((u64)from * a.x.stride / 8);
    }

    // By 128 threads. 8 threads copy a row's 128 bytes: at a time a warp the rows i·16 + warp·4 + (0 … 3), which its lanes have
    // found, each one of them.
    void load(bool ragged) {
        const int thread = threadIdx.x - warpgroups * 128, warp = thread / 32, lane = thread % 32, piece = thread % 8;
        int early = 0; // steps whose weights are on their way
        if (!ragged) {
            if (lane == 0 && mine > 0) {
                const tile t = tile_of(0);
                const int first = first_block(0);
                const char* w = weights_of(t, first, warp);
#pragma unroll 1
                for (; early < min((int)STAGES, steps()); early++) load_weights(t, w, first, warp, early, early);
            }
            after_earlier();
        }
        place<STAGES> p = {0, 0};
        for (int turn = 0; turn < mine; turn++) {
            const tile t = tile_of(turn);
            const int first = first_block(turn);
            const char* w = weights_of(t, first, warp);
            const int row = lane / 4 * 16 + warp * 4 + lane % 4;
            const u32 found = source(t, row);
            u32 away[TOKENS / 16];
#pragma unroll
            for (int i = 0; i < TOKENS / 16; i++) away[i] = __shfl_sync(0xffffffffu, found, i * 4 + lane / 8);
            for (int step = 0; step < steps(); step++, p.next()) {
                wait_barrier(at + free + p.stage * 8, p.round ^ 1);
                if (lane == 0 && early-- <= 0) load_weights(t, w, first, warp, step, p.stage);
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
        commit();
        wait<0>();
    }

    // By a multiplying warpgroup: its rows of all tiles.
    void multiply_all(int warpgroup) {
        place<STAGES> p = {0, 0};
        for (int turn = 0; turn < mine; turn++) {
            wait_barrier(at + whole + p.stage * 8, p.round);
            const int4 told = *(const int4*)(shared + tiles + p.stage * 16);
            const tile t = {told.x, told.y, told.z};
            const sums_of out = {a, (float*)(shared + sums + warpgroup * sum_bytes), (int)threadIdx.x % 128, t.expert,
                                 (first_block(turn) + warpgroup * BLOCKS) * 64};
            if (t.rows <= 64) multiply<64>(t, p, out);
            else multiply<128>(t, p, out);
        }
    }

    // Begins the products of a step with N tokens.
    template <int N, bool FIRST> void step(float (&c)[BLOCKS][N / 8][4], const place<STAGES>& p) const {
        wait_barrier(at + whole + p.stage * 8, p.round);
        publish(); // the tokens, which came by cp.async
        const u32 from = at + p.stage * stage_bytes, weights = from + threadIdx.x / 128 * BLOCKS * block_bytes, tokens = from + weight_bytes;
        if constexpr (!FIRST) hold(c);
        wgmma_begin();
#pragma unroll
        for (int k16 = 0; k16 < depth / 16; k16++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                wgmma<A, N>::run(!FIRST || k16 > 0, c[b], plain_operand(weights + b * block_bytes + k16 * 2048), swizzled_operand(tokens + k16 * 32));
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
    template <int N> void multiply(const tile& t, place<STAGES>& p, const sums_of& out) {
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
        const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
#pragma unroll 1
        for (int q = 0; q < N / part && q * part < t.rows; q++) {
            meet(warpgroup);
#pragma unroll
            for (int i = 0; i < N / part; i++) { // sums are in registers, which have no index
                if (i != q) continue;
#pragma unroll
                for (int b = 0; b < BLOCKS; b++)
#pragma unroll
                    for (int n = 0; n < part / 8; n++) out.put(c[b][i * (part / 8) + n], b * 4 + warp, n * 8);
            }
            meet(warpgroup);
            out.write(t.first + q * part, min((int)part, t.rows - q * part));
        }
    }
};

#define KERNEL(name, ...)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(384, 1) name(const gemm_args a) {                                         \
        extern __shared__ __align__(1024) char shared[];                                                                   \
        product<__VA_ARGS__>(a, shared).run(); /* which calls after_earlier */                                             \
    }

KERNEL(gemm_256, 2, 128, 4)
