// The matrix product of gemm.cu for int8 and MXFP4 weights on Hopper: wgmma with the weights from registers, where they become A,
// and the tokens from shared memory.
// Shapes  as in gemm.cu. Weights lie in shared memory as they lie in device memory, each lane's share of an operand together.
// Order   one wgmma of 16 inputs a step, steps ascending in k, in one float32 accumulator an output (with groups: one a
//         group, then their scaled sum, ascending): the same bits from every kernel below, for any number of tokens.
// Tiles   rows × tokens of a block: gemm_16 to _64 64 × 16, 32, 64 by one warpgroup, gemm_128 256 × 128 by two.
// Stages  sm90_block.cuh. The weights of 32 inputs are widened while those of the 32 before are multiplied.
// Launch  as in gemm.cu. Groups of int8 are multiples of 32. Bound: memory for few tokens an expert, tensor cores for many.
// Checked by optest.Linear and Grouped.
#include "sm90_block.cuh"

// Two int8 numbers, bytes 2·at and 2·at+1 of four, as a pair of A, exactly. Behind the exponent of 128 (in f16 of 1024) the
// lower 7 bits add to it, and the sign is what 128 more are taken away for.
template <class T> struct widening;
template <> struct widening<bf16> { enum : u32 { exponent = 0x43, one = 0x3f803f80 }; };
template <> struct widening<f16> { enum : u32 { exponent = 0x64, one = 0x3c003c00 }; };
inline void fma_pair(u32& y, u32 x, u32 by, u32 plus, bf16) { asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(by), "r"(plus)); }
inline void fma_pair(u32& y, u32 x, u32 by, u32 plus, f16) { asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(by), "r"(plus)); }
inline u32 widen(u32 four, int at) {
    const u32 two = __byte_perm(four, widening<A>::exponent, at ? 0x4342 : 0x4140);
    u32 y;
    fma_pair(y, two & 0xff7fff7f, widening<A>::one, (two & 0xff80ff80) | 0x80008000, A());
    return y;
}

// A lane's weights of 32 inputs of 64 rows, its warp's 16 among them, from where the rows' weights of a stage lie.
template <class T> void widen_half(u32 (&w)[2][4], const char* from, int half);
template <> inline void widen_half<i8>(u32 (&w)[2][4], const char* from, int half) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint2 v = *(const uint2*)(from + half * 2048 + k * 1024 + threadIdx.x % 128 * 8);
        w[k][0] = widen(v.x, 0), w[k][1] = widen(v.x, 1), w[k][2] = widen(v.y, 0), w[k][3] = widen(v.y, 1);
    }
}
template <> inline void widen_half<mxfp4>(u32 (&w)[2][4], const char* from, int half) { mxfp4_half(w, from, half); }

// WARPGROUPS of 4 warps, each with BLOCKS·64 rows and all tokens. BY_GROUP: scales by group.
template <int WARPGROUPS, int BLOCKS, int TOKENS, int STAGES, bool BY_GROUP>
struct product : sm90_block<WARPGROUPS, BLOCKS, TOKENS, STAGES> {
    using block = sm90_block<WARPGROUPS, BLOCKS, TOKENS, STAGES>;
    using block::a, block::shared, block::t;
    enum { NT = TOKENS / 8 };
    typedef float sums[BLOCKS][NT][4];
    typedef u32 weights[BLOCKS][2][4]; // of 32 inputs

    product(const gemm_args& a, char* shared) : block(a, shared) {}

    void widen_weights(weights& w, int step, int half) {
        const char* from = shared + step % STAGES * block::stage_bytes + threadIdx.x / 128 * BLOCKS * block::weight_bytes;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) widen_half<B>(w[b], from + b * block::weight_bytes, half);
    }

    static void hold(sums& c) {
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) wgmma_hold(c[b]);
    }
    // Weights that are being multiplied may not be overwritten.
    static void hold(weights& w) {
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                asm volatile("" : "+r"(w[b][k][0]), "+r"(w[b][k][1]), "+r"(w[b][k][2]), "+r"(w[b][k][3])::"memory");
    }

    void multiply(int step, int half, weights& w, sums& c, bool add) {
        const u32 tokens = block::stage_at(step) + block::tokens_at + half * 64;
        hold(c), hold(w);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                wgmma_rows<A, TOKENS, false>::run(add || k > 0, c[b], w[b][k], swizzled_operand(tokens + k * 32));
        wgmma_commit();
    }

    // Adds the sums of the group that has ended before input k, scaled.
    void close_group(int k, sums& total, const sums& c) {
        const int warp = threadIdx.x / 32;
        const float* scale = a.scale + ((i64)t.expert * (a.in / a.group) + k / a.group - 1) * a.padded_rows + block::first_row();
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const int row = ((warp / 4 * BLOCKS + b) * 4 + warp % 4) * 16 + threadIdx.x % 32 / 4;
            const float s0 = scale[row], s1 = scale[row + 8]; // a tile's rows are all there: 64, as they are padded
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) total[b][n][i] = fmaf(i < 2 ? s0 : s1, c[b][n][i], total[b][n][i]);
        }
    }

    void run() {
        if (!block::begin()) return;
        const int steps = block::steps();
        sums c;
        float total[BY_GROUP ? BLOCKS : 1][BY_GROUP ? NT : 1][4] = {};
        weights w[2];
        for (int s = 0; s < steps; s++) {
            block::await(s);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                widen_weights(w[half], s, half);
                const int k = s * depth + half * 32;
                bool add = k > 0;
                if constexpr (BY_GROUP) {
                    wgmma_wait<0>();
                    hold(c);
                    if (k > 0 && k <= a.in && k % a.group == 0) close_group(k, total, c), add = false;
                }
                multiply(s, half, w[half], c, add);
                if constexpr (!BY_GROUP) wgmma_wait<1>();
                hold(c), hold(w[1 - half]);
            }
        }
        wgmma_wait<0>();
        hold(c);
        wait<0>();
        if constexpr (BY_GROUP)
            if (steps * depth == a.in) close_group(a.in, total, c); // else within the padding
        __syncthreads();
        const int warp = threadIdx.x / 32;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const int at = (warp / 4 * BLOCKS + b) * 4 + warp % 4;
                if constexpr (BY_GROUP) block::put(total[b][n], at, n * 8);
                else block::put(c[b][n], at, n * 8);
            }
        block::write();
    }
};

// Stages of the kernels.
template <class T> struct ring;
template <> struct ring<i8> { enum { of_16 = 16, of_32 = 12, of_64 = 8, of_128 = 6 }; };
template <> struct ring<mxfp4> { enum { of_16 = 10, of_32 = 7, of_64 = 6, of_128 = 6 }; }; // four blocks a multiprocessor, three of 64

#define KERNEL(name, warpgroups, ...)                                                                                  \
    extern "C" __global__ void __launch_bounds__(warpgroups * 128) name(const gemm_args a) {                           \
        extern __shared__ __align__(1024) char shared[];                                                               \
        product<warpgroups, __VA_ARGS__>(a, shared).run(); /* which calls after_earlier */                             \
    }

#ifndef GROUPS
KERNEL(gemm_16, 1, 1, 16, ring<B>::of_16, false)
KERNEL(gemm_32, 1, 1, 32, ring<B>::of_32, false)
KERNEL(gemm_64, 1, 1, 64, ring<B>::of_64, false)
KERNEL(gemm_128, 2, 2, 128, ring<B>::of_128, false)
#else
KERNEL(gemm_16, 1, 1, 16, ring<B>::of_16, true)
KERNEL(gemm_32, 1, 1, 32, ring<B>::of_32, true)
KERNEL(gemm_64, 1, 1, 64, ring<B>::of_64, true)
#endif
