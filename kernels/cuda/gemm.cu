// y[i] = e(x[source(i)]·W_eᵀ + b_e) on the tensor cores (mma.sync), for one matrix or ragged experts, for any number of
// tokens: weights are the M of the product and tokens its N, so that one order of sums serves one token and thousands.
// Shapes  x [tokens, in] of A (bf16, f16); y [rows, out] of A or f32; w of B (A, or i8) as pack.cu leaves it:
//         [experts][blocks of 64 rows][in/16][4 tiles of 16 rows][32 lanes][8], each lane's 8 being its share of the A
//         operand of m16n8k16, zero padded to 64 rows and 64 inputs. A tile of gated weights is 8 rows of gate, then the
//         same 8 of up, so that a thread ends with both.
// Order   16 products a step, steps ascending in k, in one float32 accumulator an output (int8 with groups: one a group,
//         then their scaled sum, ascending). The kernels below differ in tiles only: the same bits from each.
// Tiles   rows × tokens of a block: gemm_16 to _64 64 × 16, 32, 64; gemm_128 128 × 128. 4 warps. 64 inputs a stage,
//         cp.async, weights contiguous, tokens gathered row by row and swizzled in 16-byte pieces.
// Launch  x: blocks of rows, y: tiles of tokens, an upper bound of them; counts are read on the device.
// Bound   memory for few tokens an expert, tensor cores for many. Checked by optest.Linear and Grouped.
#include "mma.cuh"
#include "tiles.cuh"

struct gemm_args {
    mat x, y;
    const void* w;
    const float* bias;  // [experts][padded rows], or none
    const float* scale; // i8: [experts][groups][padded rows]
    const int *offsets, *index;
    int* fault;
    int experts, rows, tokens, div; // rows of y, of x
    int in, out, padded_in, padded_rows;
    int gated, act, add, group, aligned, y_f32, op, pad;
};

enum { depth = 64 }; // inputs a stage

template <class T> struct packed { enum { bytes = 2 }; };
template <> struct packed<i8> { enum { bytes = 1 }; };

// A lane's 8 weights of a tile, as the A operand.
template <class T> void weights_of(u32 (&r)[4], const char* from) {
    const uint4 v = *(const uint4*)from;
    r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
template <> inline void weights_of<i8>(u32 (&r)[4], const char* from) { // whole numbers up to 127 are exact
    const uint2 v = *(const uint2*)from;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 two = (i < 2 ? v.x : v.y) >> (i % 2 * 16);
        r[i] = pair_of<A>((float)(i8)(two & 255), (float)(i8)(two >> 8 & 255));
    }
}

// One block: BLOCKS·64 packed rows, TOKENS tokens, warps WM × WN of them, STAGES stages; BY_GROUP: int8 scales by group.
template <int BLOCKS, int TOKENS, int WM, int STAGES, bool BY_GROUP> struct product {
    enum {
        threads = 128, WN = 4 / WM,
        MT = BLOCKS * 4 / WM, NT = TOKENS / 8 / WN, // tiles of a warp
        weight_bytes = 64 * depth * packed<B>::bytes, // of a block of rows and a stage
        token_bytes = TOKENS * depth * 2,
        stage_bytes = BLOCKS * weight_bytes + token_bytes,
        loads = TOKENS * 8 / threads // of 16 bytes of tokens, a thread and stage
    };
    static_assert(TOKENS % 16 == 0 && NT % 2 == 0, "tokens are loaded 16 at a time");

    const gemm_args& a;
    char* shared;
    tile t;
    const char* w;
    const A* x[loads];

    product(const gemm_args& a, char* shared) : a(a), shared(shared) {}

    void load(int step) {
        char* to = shared + step % STAGES * stage_bytes;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const char* from = w + ((i64)b * (a.padded_in / depth) + step) * weight_bytes;
            const bool is = (blockIdx.x * BLOCKS + b) * 64 < a.padded_rows;
#pragma unroll
            for (int i = 0; i < weight_bytes / 16 / threads; i++) {
                const int at = (i * threads + threadIdx.x) * 16;
                copy16(shared_address(to + b * weight_bytes + at), is ? from + at : (const char*)a.w, is ? 16 : 0);
            }
        }
        const int piece = threadIdx.x % 8, k = step * depth + piece * 8, left = a.in - k;
#pragma unroll
        for (int i = 0; i < loads; i++) {
            const int row = i * (threads / 8) + threadIdx.x / 8;
            char* place = to + BLOCKS * weight_bytes + row * (depth * 2) + ((piece ^ row % 8) << 4);
            if (a.aligned) {
                copy16(shared_address(place), left > 0 ? x[i] + k : x[i], left >= 8 ? 16 : left > 0 ? left * 2 : 0);
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    A v = {0};
                    if (j < left) v = x[i][k + j];
                    ((A*)place)[j] = v;
                }
            }
        }
    }

    template <int GM, int GN> void multiply(int step, float (&c)[MT][NT][4], float (&total)[GM][GN][4]) {
        const char* from = shared + step % STAGES * stage_bytes;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM;
        const u32 tokens = shared_address(from + BLOCKS * weight_bytes);
#pragma unroll
        for (int k16 = 0; k16 < depth / 16; k16++) {
            u32 b[NT / 2][4];
#pragma unroll
            for (int n = 0; n < NT / 2; n++) {
                const int row = (wn * NT + n * 2) * 8 + lane % 8 + (lane >> 4) * 8, piece = k16 * 2 + (lane >> 3 & 1);
                load_matrices(b[n], tokens + row * (depth * 2) + ((piece ^ row % 8) << 4));
            }
#pragma unroll
            for (int m = 0; m < MT; m++) {
                const int at = wm * MT + m;
                u32 v[4];
                weights_of<B>(v, from + at / 4 * weight_bytes + ((k16 * 4 + at % 4) * 32 + lane) * 8 * packed<B>::bytes);
#pragma unroll
                for (int n = 0; n < NT; n++) mma<A>(c[m][n], v, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
            if constexpr (BY_GROUP) {
                const int done = step * depth + k16 * 16 + 16;
                if (done % a.group == 0 && done <= a.in) close_group(done / a.group - 1, total, c);
            }
        }
    }

    // Adds the sums of a group, scaled, and begins the next.
    void close_group(int group, float (&total)[MT][NT][4], float (&c)[MT][NT][4]) {
        const int lane = threadIdx.x % 32, wm = threadIdx.x / 32 % WM;
        const float* scale = a.scale + ((i64)t.expert * (a.in / a.group) + group) * a.padded_rows + blockIdx.x * BLOCKS * 64;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const int row = (wm * MT + m) * 16 + lane / 4;
            const bool is = blockIdx.x * BLOCKS * 64 + row + 8 < a.padded_rows;
            const float s0 = is ? scale[row] : 0, s1 = is ? scale[row + 8] : 0;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    total[m][n][i] = fmaf(i < 2 ? s0 : s1, c[m][n][i], total[m][n][i]);
                    c[m][n][i] = 0;
                }
        }
    }

    template <class Y> void write(const float* out, int stride, int columns) {
        const int column0 = blockIdx.x * columns;
        for (int i = threadIdx.x; i < t.rows * (columns / 8); i += threads) {
            const int token = i / (columns / 8), at = i % (columns / 8) * 8, n = a.out - column0 - at;
            if (n <= 0) continue;
            float v[8];
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] = out[token * stride + at + j];
            Y* y = row_of<Y>(a.y, t.first + token) + column0 + at;
            if (a.add) {
                float old[8];
                load8(old, y, n);
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] += old[j];
            }
            store8(y, v, n);
        }
    }

    // Through shared memory, so that rows of y are written whole.
    void finish(float (&c)[MT][NT][4]) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM;
        const int columns = BLOCKS * 64 >> a.gated, first_row = blockIdx.x * BLOCKS * 64, stride = columns + 4;
        float* out = (float*)shared;
        __syncthreads();
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const int at = wm * MT + m, row = at * 16 + lane / 4;
            const bool is = first_row + row + 8 < a.padded_rows;
            const i64 place = (i64)t.expert * a.padded_rows + first_row + row;
            float b0 = 0, b1 = 0, s0 = 1, s1 = 1;
            if (a.bias != nullptr && is) b0 = a.bias[place], b1 = a.bias[place + 8];
            if (a.scale != nullptr && a.group == 0 && is) s0 = a.scale[place], s1 = a.scale[place + 8];
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int token = (wn * NT + n) * 8 + lane % 4 * 2 + i;
                    const float v0 = fmaf(c[m][n][i], s0, b0), v1 = fmaf(c[m][n][i + 2], s1, b1);
                    if (a.gated) {
                        out[token * stride + at * 8 + lane / 4] = activate(a.act, v0) * v1;
                    } else {
                        out[token * stride + row] = activate(a.act, v0);
                        out[token * stride + row + 8] = activate(a.act, v1);
                    }
                }
        }
        __syncthreads();
        if (a.y_f32) write<float>(out, stride, columns);
        else write<A>(out, stride, columns);
    }

    void run() {
        t = find_tile<TOKENS>(a.offsets, a.experts, a.rows, blockIdx.y);
        if (t.rows <= 0) return;
        const int steps = a.padded_in / depth;
        w = (const char*)a.w + ((i64)t.expert * (a.padded_rows / 64) + blockIdx.x * BLOCKS) * steps * weight_bytes;
#pragma unroll
        for (int i = 0; i < loads; i++) {
            const int row = i * (threads / 8) + threadIdx.x / 8;
            int source = t.first + min(row, t.rows - 1); // rows beyond are computed and thrown away
            if (a.index != nullptr) source = a.index[source] / a.div;
            if (source < 0 || source >= a.tokens) {
                note_fault(a.fault, a.op, source, t.first + row);
                source = 0;
            }
            x[i] = row_of<A>(a.x, source);
        }
        float c[MT][NT][4] = {}, total[BY_GROUP ? MT : 1][BY_GROUP ? NT : 1][4] = {};
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < steps) load(s);
            commit();
        }
        for (int s = 0; s < steps; s++) {
            wait<STAGES - 2>();
            __syncthreads();
            if (s + STAGES - 1 < steps) load(s + STAGES - 1);
            commit();
            multiply(s, c, total);
        }
        wait<0>();
        if constexpr (BY_GROUP) finish(total);
        else finish(c);
    }
};

#define KERNEL(name, ...)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) name(const gemm_args a) {                                        \
        extern __shared__ __align__(128) char shared[];                                                                \
        product<__VA_ARGS__>(a, shared).run();                                                                         \
    }

#ifndef GROUPS
KERNEL(gemm_16, 1, 16, 4, 6, false)
KERNEL(gemm_32, 1, 32, 4, 5, false)
KERNEL(gemm_64, 1, 64, 2, 4, false)
KERNEL(gemm_128, 2, 128, 2, 3, false)
#else
KERNEL(gemm_16, 1, 16, 4, 6, true)
KERNEL(gemm_32, 1, 32, 4, 5, true)
KERNEL(gemm_64, 1, 64, 2, 4, true)
#endif
