// y[i] = e(x[source(i)]·W_eᵀ + b_e) on the tensor cores (mma.sync), for one matrix or ragged experts, for any number of
// tokens: weights are the M of the product and tokens its N, so that one order of sums serves one token and thousands.
// On sm_90a sm90_gemm.cu does it for 16-bit weights and sm90_gemm_narrow.cu for others, but for int8 groups of odd multiples of 16.
// Shapes  x [tokens, in] of A (bf16, f16); y [rows, out] of A or f32; w of B (A, i8, or mxfp4) as pack.cu and pack_mxfp4.cu leave
//         it, padded with zeros to 64 rows and 64 inputs. A tile of 16 gated rows is 8 of gate, then the same 8 of up, so that a thread
//         ends with both.
// Order   16 products a step, steps ascending in k, in one float32 accumulator an output (int8 with groups: one a group,
//         then their scaled sum, ascending). The kernels below differ in tiles only: the same bits from each.
// Tiles   rows × tokens of a block: gemm_16 to _64 64 × 16, 32, 64; gemm_128 128 × 128. 4 warps. 64 inputs a stage.
// Launch  x: blocks of rows, y: tiles of tokens, an upper bound of them; counts are read on the device.
// Bound   memory for few tokens an expert, tensor cores for many. Checked by optest.Linear and Grouped.
#include "gemm.cuh"

// A lane's 8 weights of a tile of 16 rows, as the A operand: those of 16 bits lie as ldmatrix wants them, int8 ones lane
// by lane.
template <class T> void weights_of(u32 (&r)[4], const char* block, int k16, int tile) {
    const int lane = threadIdx.x % 32;
    load_matrices(r, shared_address(block + k16 * 2048 + (lane >> 4) * 1024 + (tile * 2 + (lane >> 3 & 1)) * 128 + lane % 8 * 16));
}
template <> inline void weights_of<i8>(u32 (&r)[4], const char* block, int k16, int tile) { // whole numbers up to 127 are exact
    const uint2 v = *(const uint2*)(block + k16 * 1024 + (tile * 32 + threadIdx.x % 32) * 8);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 two = (i < 2 ? v.x : v.y) >> (i % 2 * 16);
        r[i] = pair_of<A>((float)(i8)(two & 255), (float)(i8)(two >> 8 & 255));
    }
}
template <> inline void weights_of<mxfp4>(u32 (&r)[4], const char* block, int k16, int tile) {
    const int lane = threadIdx.x % 32;
    const uint2 v = *(const uint2*)(block + k16 / 2 * (mxfp4_numbers / 2) + (tile * 32 + lane) * 8);
    const u32 scales = *(const u32*)(block + mxfp4_numbers + (tile * 8 + lane / 4) * 4);
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = mxfp4_pair(i % 2 ? v.y : v.x, k16 % 2 * 2 + i / 2, mxfp4_scale(scales, i % 2, k16 / 2));
}

// Warps share the block WM × WN. BY_GROUP: int8 scales by group.
template <int BLOCKS, int TOKENS, int WM, int STAGES, bool BY_GROUP> struct product : gemm_block<BLOCKS, TOKENS, STAGES, 128> {
    using block = gemm_block<BLOCKS, TOKENS, STAGES, 128>;
    using block::a, block::shared, block::t;
    enum { WN = 4 / WM, MT = BLOCKS * 4 / WM, NT = TOKENS / 8 / WN }; // tiles of a warp
    static_assert(NT % 2 == 0, "tokens are loaded 16 at a time");

    product(const gemm_args& a, char* shared) : block(a, shared) {}

    template <int GM, int GN> void multiply(int step, float (&c)[MT][NT][4], float (&total)[GM][GN][4]) {
        const char* from = shared + step % STAGES * block::stage_bytes;
        const int lane = threadIdx.x % 32, wm = threadIdx.x / 32 % WM, wn = threadIdx.x / 32 / WM;
        const u32 tokens = shared_address(from + block::tokens_at);
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
                weights_of<B>(v, from + at / 4 * block::weight_bytes, k16, at % 4);
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
        const float* scale = a.scale + ((i64)t.expert * (a.in / a.group) + group) * a.padded_rows + block::first_row();
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const int row = (wm * MT + m) * 16 + lane / 4;
            const bool is = block::first_row() + row + 8 < a.padded_rows;
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

    void finish(float (&c)[MT][NT][4]) {
        const int wm = threadIdx.x / 32 % WM, wn = threadIdx.x / 32 / WM;
        __syncthreads();
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++) block::put(c[m][n], wm * MT + m, (wn * NT + n) * 8);
        block::write();
    }

    void run() {
        if (!block::find()) return;
        block::find_tokens();
        const int steps = block::steps();
        float c[MT][NT][4] = {}, total[BY_GROUP ? MT : 1][BY_GROUP ? NT : 1][4] = {};
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < steps) block::load_weights(s), block::load_tokens(s);
            commit();
        }
        for (int s = 0; s < steps; s++) {
            wait<STAGES - 2>();
            __syncthreads();
            if (s + STAGES - 1 < steps) block::load_weights(s + STAGES - 1), block::load_tokens(s + STAGES - 1);
            commit();
            multiply(s, c, total);
        }
        wait<0>();
        if constexpr (BY_GROUP) finish(total);
        else finish(c);
    }
};

#define KERNEL(name, ...)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 1) name(const gemm_args a) {                                     \
        extern __shared__ __align__(128) char shared[];                                                                \
        after_earlier();                                                                                               \
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
