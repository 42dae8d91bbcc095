// The matrix product of gemm.cu for 16-bit weights on Hopper: the same tiles of weights and tokens, multiplied by wgmma.
// Shapes  as in gemm.cu. Weights lie in shared memory as they lie in device memory; tokens, gathered, in swizzled rows. IN_ROWS:
//         one matrix whose weights lie in rows in device memory, where cuBLASLt reads them too, and in swizzled ones here.
// Order   one wgmma of 16 inputs a step, steps ascending in k, in one float32 accumulator an output: the same bits from
//         every kernel below, for any number of tokens.
// Tiles   rows × tokens of a block: 64 × 16, 32, 64, by one warpgroup. For more tokens there is sm90_gemm_tiles.cu.
// Stages  sm90_block.cuh.
// Launch  as in gemm.cu. Bound: memory.
// Checked by optest.Linear and Grouped.
#include "sm90_block.cuh"

#ifdef IN_ROWS
struct args {
    boxes w; // 64 inputs by 64 rows
    gemm_args g;
};
#define ARGS const __grid_constant__ args
#else
#define ARGS const gemm_args
#endif

template <int TOKENS, int STAGES> struct product : sm90_block<1, 1, TOKENS, STAGES> {
    using block = sm90_block<1, 1, TOKENS, STAGES>;

#ifdef IN_ROWS
    product(const args& a, char* shared) : block(a.g, shared) { block::rows = &a.w; }
#else
    product(const gemm_args& a, char* shared) : block(a, shared) {}
#endif

    void multiply(int step, float (&c)[TOKENS / 8][4]) {
        const u32 weights = block::stage_at(step), tokens = weights + block::tokens_at;
        wgmma_hold(c);
        wgmma_begin();
#pragma unroll
        for (int k16 = 0; k16 < depth / 16; k16++)
            wgmma<A, TOKENS>::run(step > 0 || k16 > 0, c, weights_operand(weights, k16), swizzled_operand(tokens + k16 * 32));
        wgmma_commit();
    }

    void run() {
        if (!block::begin()) return;
        float c[TOKENS / 8][4];
        for (int s = 0; s < block::steps(); s++) {
            block::await(s);
            multiply(s, c);
            wgmma_wait<1>();
            wgmma_hold(c);
        }
        wgmma_wait<0>();
        wgmma_hold(c);
        wait<0>();
        __syncthreads();
#pragma unroll
        for (int n = 0; n < TOKENS / 8; n++) block::put(c[n], threadIdx.x / 32, n * 8);
        block::write();
    }
};

#define KERNEL(name, ...)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) name(ARGS a) {                                                   \
        extern __shared__ __align__(1024) char shared[];                                                               \
        product<__VA_ARGS__>(a, shared).run(); /* which calls after_earlier */                                         \
    }

KERNEL(gemm_16, 16, 7)
KERNEL(gemm_32, 32, 6)
KERNEL(gemm_64, 64, 6)
