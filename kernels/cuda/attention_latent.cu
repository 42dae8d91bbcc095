// Multi-head latent attention on the tensor cores: keys of 576 values that all heads of a KV head share, whose last 512 are
// the value too, so that a tile of the cache is loaded once; activations and cache of one 16-bit type A.
// Shapes  as in attention.cuh, LATENT. Order: as there, whichever kernel a token comes to.
// Rows    are the queries of a KV head, those of a token's heads next to each other: a product of 16, 32 or 64 rows has several
//         heads of one token, and in prompts those of several tokens. Of n sixteens warp w has the (w mod n)-th at a part of a
//         tile's positions; then each warp has all rows and an equal part of the values.
// Tiles   64 positions, in 9 parts of 64 values, [position][128 bytes] swizzled. q lies in shared memory in the same way.
// Sums    of a piece are in registers; those of the pieces before in memory (`before`), which is read and written once a piece and
//         block.
// Launch  blocks stay and take task after task. prefill: rows of the step, for sequences with several tokens in it, the last ones
//         first. decode: of the only token of a sequence rows of one KV head, and a share of the context; combine as
//         in attention_mma.cu.
// Bound   decode of 16 heads: memory, 30 FLOPs a byte; of 128: both, 242. Prompts: tensor cores. Checked by optest.Attention.
#include "attention.cuh"

enum { key_values = 576, latent_values = 512, parts_of_key = key_values / 64, part_bytes = tile_tokens * 128, tile_bytes = parts_of_key * part_bytes };

// How many tiles a block has room for. On Hopper it has 227 KiB, on others 99 or more, and kernels of 16 and 32 rows (latentTiles).
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
enum { stages = 2 };
#else
enum { stages = 1 };
#endif

// Rows of a KV head's queries, counted from the step's first token on: the block's from `first`, of which [from, to) are
// those of one sequence; and the tiles and where they are to be found.
struct job {
    int kv_head, first, from, to, seq;
    int lo, hi; // positions that any of them sees
    int begin, end; // tiles
    share mine;
    int part;
    int last_seq; // of the block's rows
    bool there;   // q is
};
static_assert(sizeof(job) <= 64, "its place in shared memory");

template <int ROWS> struct attention {
    enum {
        warps = ROWS == 16 ? 4 : 8,
        threads = warps * 32,
        across = ROWS / 16,            // warps that have other rows, where logits are made
        beside = warps / across,       // warps that have other positions
        wide = tile_tokens / beside,   // positions of a warp
        own = latent_values / warps,   // values of a warp, where weights meet V
        positions = tile_tokens / warps, // that a warp loads
        q_bytes = ROWS * 128,          // a part of q
        queries = stages * tile_bytes, // places in shared memory
        weights = queries + parts_of_key * q_bytes, // [ROWS][64] of A, swizzled; at a piece's end masses [4][ROWS][4]
        most = weights + ROWS * 128,   // [beside][ROWS]
        rescale = most + beside * ROWS * 4, // [ROWS], of a tile; then of a piece two, and the inverse of the whole
        summed = rescale + 4 * ROWS * 4, // [ROWS] maximum and mass of the pieces so far
        sees = summed + ROWS * 8,        // [ROWS] positions: from, to
        at_hand = sees + ROWS * 8,       // the job
        bytes = at_hand + 64
    };

    const attention_args& a;
    char* shared;
    const u32 at; // shared's address
    const int group, lane, warp; // group: rows of a token

    attention(const attention_args& a, char* shared)
        : a(a), shared(shared), at(shared_address(shared)), group(a.heads / a.kv_heads), lane(threadIdx.x % 32), warp(threadIdx.x / 32) {}

    job& current() const { return *(job*)(shared + at_hand); }
    int2& sees_of(int row) const { return ((int2*)(shared + sees))[row]; }
    // Whether this thread has what is one for a row: of rows 16·warp + lane/4 and 8 more.
    bool keeps_rows() const { return warp < across && lane % 4 == 0; }
    static u32 place(int row, int piece) { return row * 128 + ((piece ^ row % 8) << 4); }
    float* floats(int place) const { return (float*)(shared + place); }

    // The row of the cache that this lane finds for its warp's positions of a tile.
    int find(const job& j, int tile) const {
        return cache_row(a, row_of<int>(a.blocks, j.seq), j.kv_head, tile * tile_tokens + warp * positions + lane % positions, j.lo, j.hi);
    }

    // Begins to load a tile whose rows were found: eight lanes have 128 bytes of a position.
    void load(int tile, int found) const {
        const u32 to = at + tile % stages * tile_bytes;
#pragma unroll
        for (int i = 0; i < positions; i += 4) {
            const int row = __shfl_sync(0xffffffffu, found, i + lane / 8), r = warp * positions + i + lane / 8;
            const char* from = (const char*)a.cache + (row < 0 ? 0 : (i64)row * (key_values * 2)) + lane % 8 * 16;
#pragma unroll
            for (int p = 0; p < parts_of_key; p++) copy16(to + p * part_bytes + place(r, lane % 8), from + p * 128, row < 0 ? 0 : 16);
        }
    }

    void load_queries(const job& j, int to) const {
        const int rows = min(to - j.first, ROWS);
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * parts_of_key * 8; i += threads) {
            const int row = i / (parts_of_key * 8), piece = i % (parts_of_key * 8), r = j.first + (row < rows ? row : 0);
            const A* q = row_of<A>(a.q, r / group) + (i64)(j.kv_head * group + r % group) * key_values + piece * 8;
            const u32 to = at + queries + piece / 8 * q_bytes + place(row, piece % 8);
            if (aligned(q)) {
                copy16(to, q, row < rows ? 16 : 0);
                continue;
            }
            u32 x[4] = {};
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (row < rows) x[k] = (u32)q[2 * k].bits | (u32)q[2 * k + 1].bits << 16;
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
        }
    }

    // Logits of this warp's 16 rows at its positions of a tile.
    void logits(float (&s)[wide / 8][4], u32 k) const {
        const u32 q = at + queries + place(warp % across * 16 + lane % 16, lane / 16);
        const u32 keys = k + place(warp / across * wide + lane % 8 + (lane >> 4) * 8, lane >> 3 & 1);
#pragma unroll
        for (int n = 0; n < wide / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll 3
        for (int part = 0; part < parts_of_key; part++)
#pragma unroll
            for (int d = 0; d < 4; d++) {
                u32 rows[4];
                load_matrices(rows, (q ^ d * 32) + part * q_bytes);
#pragma unroll
                for (int n = 0; n < wide / 16; n++) {
                    u32 b[4];
                    load_matrices(b, (keys ^ d * 32) + part * part_bytes + n * 2048);
                    mma<A>(s[2 * n], rows, b[0], b[1]);
                    mma<A>(s[2 * n + 1], rows, b[2], b[3]);
                }
            }
    }

    // o += weights · V, this warp's values of it.
    void weigh(float (&o)[across][own / 8][4], u32 k) const {
        const u32 w = at + weights + place(lane % 16, lane / 16);
        const u32 v = k + (1 + warp * own / 64) * part_bytes + place(lane % 8 + (lane >> 3 & 1) * 8, lane >> 4);
#pragma unroll
        for (int s = 0; s < 4; s++) {
            u32 p[across][4];
#pragma unroll
            for (int m = 0; m < across; m++) load_matrices(p[m], (w ^ s * 32) + m * 2048);
#pragma unroll
            for (int n = 0; n < own / 16; n++) {
                u32 b[4];
                load_transposed(b, (v ^ n % 4 * 32) + n / 4 * part_bytes + s * 2048);
#pragma unroll
                for (int m = 0; m < across; m++) mma<A>(o[m][2 * n], p[m], b[0], b[1]), mma<A>(o[m][2 * n + 1], p[m], b[2], b[3]);
            }
        }
    }

    static void clear(float (&o)[across][own / 8][4]) {
#pragma unroll
        for (int m = 0; m < across; m++)
#pragma unroll
            for (int n = 0; n < own / 8; n++) o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0;
    }

    // Where a thread of this block has the sums of earlier pieces of its rows 16m …: of each eight values four.
    float4* before(int m, int n) const {
        return (float4*)(a.before + (i64)blockIdx.x * (ROWS * latent_values)) + (m * (own / 8) + n) * threads + threadIdx.x;
    }

    // The tiles of a job, whose q is there or on its way.
    void attend(const job& given) const {
        job& j = current(); // registers are short
        __syncthreads();    // the one before was read
        if (threadIdx.x == 0) j = given;
        __syncthreads();
        const int mine = warp % across * 16 + lane / 4, sixteens = warp / across * (wide / 16);
        float o[across][own / 8][4], top[2] = {-infinity, -infinity}, mass[2][wide / 16];
        bool first_piece = true;
        clear(o);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (keeps_rows()) {
                const int row = mine + i * 8, r = j.first + row;
                int lo = 0, hi = 0;
                if (r >= j.from && r < j.to) span(a, r / group, j.seq, lo, hi);
                sees_of(row) = make_int2(lo, hi), *(float2*)(floats(summed) + 2 * row) = make_float2(-infinity, 0);
            }
#pragma unroll
            for (int n = 0; n < wide / 16; n++) mass[i][n] = 0;
        }
        int found = find(j, j.begin);
        if (j.begin < j.end) load(j.begin, found);
        commit();
        if (stages > 1) found = find(j, j.begin + 1);
        for (int tile = j.begin; tile < j.end; tile++) {
            wait<0>();
            __syncthreads();
            if (stages > 1 && tile + 1 < j.end) load(tile + 1, found);
            commit();
            if (stages > 1) found = find(j, tile + 2); // by the time that it is needed
            const u32 k = at + tile % stages * tile_bytes;
            float w[wide / 8][4], found_most[2] = {-infinity, -infinity};
            logits(w, k);
            const int2 seen[2] = {sees_of(mine), sees_of(mine + 8)};
#pragma unroll
            for (int n = 0; n < wide / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int p = tile * tile_tokens + sixteens * 16 + n * 8 + lane % 4 * 2 + i % 2;
                    w[n][i] = p >= seen[i / 2].x && p < seen[i / 2].y ? w[n][i] : -infinity;
                    found_most[i / 2] = fmaxf(found_most[i / 2], w[n][i]);
                }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                found_most[i] = quad_max(found_most[i]);
                if (lane % 4 == 0) floats(most)[warp / across * ROWS + mine + i * 8] = found_most[i];
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = mine + i * 8;
                float highest = floats(most)[row];
#pragma unroll
                for (int b = 1; b < beside; b++) highest = fmaxf(highest, floats(most)[b * ROWS + row]);
                const float keep = raise(top[i], highest, a.scale), shift = shift_of(top[i], a.scale);
                if (keeps_rows()) floats(rescale)[row] = keep;
#pragma unroll
                for (int n = 0; n < wide / 8; n++) {
                    w[n][2 * i] = weight(w[n][2 * i], a.scale, shift), w[n][2 * i + 1] = weight(w[n][2 * i + 1], a.scale, shift);
                    *(u32*)(shared + weights + place(row, sixteens * 2 + n) + lane % 4 * 4) = pair_of<A>(w[n][2 * i], w[n][2 * i + 1]);
                }
#pragma unroll
                for (int n = 0; n < wide / 16; n++)
                    row_mass::add(mass[i][n], keep, w[2 * n][2 * i], w[2 * n][2 * i + 1], w[2 * n + 1][2 * i], w[2 * n + 1][2 * i + 1]);
            }
            __syncthreads();
#pragma unroll
            for (int m = 0; m < across; m++) {
                const float keep0 = floats(rescale)[m * 16 + lane / 4], keep1 = floats(rescale)[m * 16 + lane / 4 + 8];
                if (!__any_sync(0xffffffffu, keep0 != 1 || keep1 != 1)) continue;
#pragma unroll
                for (int n = 0; n < own / 8; n++) o[m][n][0] *= keep0, o[m][n][1] *= keep0, o[m][n][2] *= keep1, o[m][n][3] *= keep1;
            }
            weigh(o, k);
            if ((tile + 1) % piece_tiles == 0 || tile + 1 == j.end) {
                end_piece(j, tile, mine, sixteens, top, mass, o, first_piece);
                first_piece = false;
            }
            if (stages == 1 && tile + 1 < j.end) {
                __syncthreads(); // V was read
                load(tile + 1, find(j, tile + 1));
                commit();
            }
        }
        wait<0>();
        if (j.begin >= j.end && j.part == 0) { // rows that see nothing
            if (keeps_rows()) floats(rescale)[3 * ROWS + mine] = floats(rescale)[3 * ROWS + mine + 8] = 0;
            __syncthreads();
            store(j, o);
        }
        __syncthreads(); // before the next job's loads
    }

    // A piece's sums come to those of the pieces before, or, where a block has them for combine alone, are kept.
    void end_piece(const job& j, int tile, int mine, int sixteens, float (&top)[2], float (&mass)[2][wide / 16],
                   float (&o)[across][own / 8][4], bool first_piece) const {
        const bool last = tile + 1 == j.end;
        const int slot = j.part > 0 ? j.mine.slot + tile / piece_tiles - j.mine.from : j.mine.slot;
        float(*masses)[ROWS][4] = (float(*)[ROWS][4])(shared + weights);
        __syncthreads(); // the weights were read
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int n = 0; n < wide / 16; n++) masses[sixteens + n][mine + i * 8][lane % 4] = mass[i][n], mass[i][n] = 0;
        __syncthreads();
        if (warp < across) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = mine + i * 8, r = j.first + row, t = lane % 4;
                const float all = row_mass{{masses[0][row][t], masses[1][row][t], masses[2][row][t], masses[3][row][t]}}.all();
                if (t > 0) continue;
                const bool is = r >= j.from && r < j.to;
                float2* kept = masses_of(a, latent_values) + (slot >= 0 && is ? result_at(a, slot, j.kv_head * group + r % group) : 0);
                if (j.part > 0) {
                    if (is) *kept = make_float2(top[i], all);
                    continue;
                }
                float2& so_far = *(float2*)(floats(summed) + 2 * row);
                row_sum sum;
                sum.top = so_far.x, sum.mass = so_far.y;
                sum.fold(top[i], all, a.scale);
                so_far = make_float2(sum.top, sum.mass);
                floats(rescale)[ROWS + row] = sum.keep, floats(rescale)[2 * ROWS + row] = sum.share, floats(rescale)[3 * ROWS + row] = sum.inverse();
                if (last && slot >= 0 && is) *kept = so_far;
            }
        }
        top[0] = top[1] = -infinity;
        if (j.part > 0) {
            keep_part(j, slot, o);
            clear(o);
            return;
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < across; m++) {
            asm volatile("" ::: "memory"); // no more loads at once than there are registers for
            row_sum of[2];
#pragma unroll
            for (int i = 0; i < 2; i++) of[i].keep = floats(rescale)[ROWS + m * 16 + lane / 4 + i * 8], of[i].share = floats(rescale)[2 * ROWS + m * 16 + lane / 4 + i * 8];
#pragma unroll
            for (int n = 0; n < own / 8; n++) {
                const float4 x = first_piece ? make_float4(0, 0, 0, 0) : *before(m, n);
                o[m][n][0] = of[0].folded(x.x, o[m][n][0]), o[m][n][1] = of[0].folded(x.y, o[m][n][1]);
                o[m][n][2] = of[1].folded(x.z, o[m][n][2]), o[m][n][3] = of[1].folded(x.w, o[m][n][3]);
            }
        }
        if (!last) {
#pragma unroll
            for (int m = 0; m < across; m++)
#pragma unroll
                for (int n = 0; n < own / 8; n++) *before(m, n) = make_float4(o[m][n][0], o[m][n][1], o[m][n][2], o[m][n][3]);
            clear(o);
        } else if (slot >= 0) {
            keep_part(j, slot, o);
        } else {
            store(j, o);
        }
    }

    // Keeps for combine what this warp has of the rows' sums.
    void keep_part(const job& j, int slot, const float (&o)[across][own / 8][4]) const {
#pragma unroll
        for (int m = 0; m < across; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = j.first + m * 16 + lane / 4 + i * 8;
                if (r < j.from || r >= j.to) continue;
                float* to = a.partials + result_at(a, slot, j.kv_head * group + r % group) * latent_values + warp * own + lane % 4 * 2;
#pragma unroll
                for (int n = 0; n < own / 8; n++) *(float2*)(to + n * 8) = make_float2(o[m][n][2 * i], o[m][n][2 * i + 1]);
            }
    }

    void store(const job& j, const float (&o)[across][own / 8][4]) const {
#pragma unroll
        for (int m = 0; m < across; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = m * 16 + lane / 4 + i * 8, r = j.first + row;
                if (r < j.from || r >= j.to) continue;
                const float inverse = floats(rescale)[3 * ROWS + row];
                A* y = row_of<A>(a.out, r / group) + (i64)(j.kv_head * group + r % group) * latent_values + warp * own + lane % 4 * 2;
                if (((u64)y & 3) == 0) {
#pragma unroll
                    for (int n = 0; n < own / 8; n++)
                        *(u32*)(y + n * 8) = pair_of<A>(row_sum::result(o[m][n][2 * i], inverse), row_sum::result(o[m][n][2 * i + 1], inverse));
                } else {
#pragma unroll
                    for (int n = 0; n < own / 8; n++)
#pragma unroll
                        for (int k = 0; k < 2; k++) y[n * 8 + k] = from_float<A>(row_sum::result(o[m][n][2 * i + k], inverse));
                }
            }
    }

    // Calls a task after the other, of `all`, as blocks get through with theirs.
    template <class TASK> void take(int all, TASK task) const {
        __shared__ int next;
        for (int number = blockIdx.x; number < all;) {
            if (threadIdx.x == 0) next = gridDim.x + atomicAdd(a.tasks, 1);
            task(number);
            __syncthreads();
            number = next;
            __syncthreads();
        }
        if (threadIdx.x == 0 && atomicAdd(a.tasks + 1, 1) == gridDim.x - 1) a.tasks[0] = 0, a.tasks[1] = 0; // nobody takes a task any more
    }

    void prefill() {
        const int rows = a.tokens * group, tiles = (rows + ROWS - 1) / ROWS;
        take(tiles * a.kv_heads, [&](int number) {
            job j;
            j.kv_head = number % a.kv_heads, j.first = (tiles - 1 - number / a.kv_heads) * ROWS; // the long ones start first
            j.mine = {0, 0, -1, 0}, j.part = 0;
            j.last_seq = a.seq[(min(rows, j.first + ROWS) - 1) / group], j.there = false;
            for (j.seq = a.seq[j.first / group]; j.seq <= j.last_seq; j.seq++) {
                const int from = a.start[j.seq], to = a.start[j.seq + 1], end = min(rows, j.first + ROWS);
                if (to - from <= 1) continue; // decode's
                if (!j.there) load_queries(j, end);
                j.there = true;
                j.from = max(j.first, from * group), j.to = min(end, to * group);
                j.lo = 1 << 30, j.hi = 0;
                for (int t = j.from / group + lane; t <= (j.to - 1) / group; t += 32) {
                    int lo, hi;
                    span(a, t, j.seq, lo, hi);
                    j.lo = min(j.lo, lo), j.hi = max(j.hi, hi);
                }
                j.lo = __reduce_min_sync(0xffffffffu, j.lo), j.hi = __reduce_max_sync(0xffffffffu, j.hi);
                j.begin = j.lo / tile_tokens, j.end = (j.hi + tile_tokens - 1) / tile_tokens;
                attend(j);
                j = current();
            }
        });
    }

    void decode() {
        const int tiles = (group + ROWS - 1) / ROWS;
        take(a.seqs * a.kv_heads * tiles * a.parts, [&](int number) {
            job j;
            const int seq = number % a.seqs; // the first parts of all sequences come first
            j.kv_head = number / a.seqs % a.kv_heads;
            const int tile = number / (a.seqs * a.kv_heads) % tiles;
            j.part = number / (a.seqs * a.kv_heads * tiles);
            const i64 token = alone(a, seq);
            if (token < 0) return; // prefill's
            j.seq = a.seq[token];
            span(a, token, j.seq, j.lo, j.hi);
            j.begin = max(j.lo / tile_tokens, (j.lo / piece_tokens + j.part * a.run) * piece_tiles);
            if (j.part > 0 && j.begin * tile_tokens >= j.hi) return;
            j.first = j.from = (int)token * group + tile * ROWS, j.to = min(j.first + ROWS, ((int)token + 1) * group);
            j.mine = share_of(a, seq, j.lo, j.hi, j.part);
            j.end = min((j.hi + tile_tokens - 1) / tile_tokens, j.mine.to * piece_tiles);
            if (j.part > 0 && j.begin >= j.end) return; // one block walks all
            load_queries(j, j.to);
            attend(j);
        });
    }
};

#define KERNEL(name, rows)                                                                                             \
    extern "C" __global__ void __launch_bounds__(attention<rows>::threads, 1) name##_##rows(const attention_args a) {  \
        extern __shared__ __align__(128) char shared[];                                                               \
        after_earlier();                                                                                               \
        attention<rows>(a, shared).name();                                                                             \
    }

KERNEL(prefill, 16)
KERNEL(decode, 16)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
KERNEL(prefill, 64)
KERNEL(decode, 64)
#else
KERNEL(prefill, 32)
KERNEL(decode, 32)
#endif

extern "C" __global__ void __launch_bounds__(latent_values) combine(const attention_args a) {
    after_earlier();
    combine_parts<latent_values>(a, a.scale);
}
