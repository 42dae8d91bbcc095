// The matrix product of gemm.cu for 16-bit weights on Hopper: the same tiles of weights and tokens, multiplied by wgmma.
// Shapes  as in gemm.cu. Weights lie in shared memory as they lie in device memory; tokens, gathered, in swizzled rows.
// Order   one wgmma of 16 inputs a step, steps ascending in k, in one float32 accumulator an output: the same bits from
//         every kernel below, for any number of tokens.
// Tiles   rows × tokens of a block: gemm_16 to _64 64 × 16, 32, 64 by one warpgroup, gemm_128 256 × 128 by two, each with
//         128 rows: 85 products a byte from L2, where 128 × 128 has 64.
// Stages  weights by the copy engine, 8 KB at a time, and tokens by cp.async, two stages before they are used: while one is
//         multiplied, the one before is still being read.
// Launch  as in gemm.cu. Bound: memory for few tokens an expert, L2 and tensor cores for many.
// Checked by optest.Linear and Grouped.
#include "gemm.cuh"
#include "bulk.cuh"
#include "wgmma.cuh"

// WARPGROUPS of 4 warps, each with BLOCKS·64 rows and all tokens.
template <int WARPGROUPS, int BLOCKS, int TOKENS, int STAGES>
struct product : gemm_block<WARPGROUPS * BLOCKS, TOKENS, STAGES, WARPGROUPS * 128> {
    using block = gemm_block<WARPGROUPS * BLOCKS, TOKENS, STAGES, WARPGROUPS * 128>;
    using block::shared;
    enum { ahead = STAGES - 2, barriers = STAGES * block::stage_bytes }; // the latter's place in shared memory

    product(const gemm_args& a, char* shared) : block(a, shared) {}

    u32 arrival(int step) const { return shared_address(shared) + barriers + step % STAGES * 8; }

    void load_weights(int step) {
        if (threadIdx.x > 0) return;
        const int left = (block::a.padded_rows - block::first_row()) / 64, n = min(left, WARPGROUPS * BLOCKS);
        expect(arrival(step), n * block::weight_bytes);
        for (int b = 0; b < n; b++) // of rows beyond, what lies there stays: nobody reads their sums
            copy_bulk(shared_address(shared) + step % STAGES * block::stage_bytes + b * block::weight_bytes,
                      block::w + ((i64)b * block::steps() + step) * block::weight_bytes, block::weight_bytes, arrival(step));
    }

    void multiply(int step, float (&c)[BLOCKS][TOKENS / 8][4]) {
        const u32 from = shared_address(shared) + step % STAGES * block::stage_bytes;
        const u32 weights = from + threadIdx.x / 128 * BLOCKS * block::weight_bytes, tokens = from + WARPGROUPS * BLOCKS * block::weight_bytes;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) wgmma_hold(c[b]);
        wgmma_begin();
#pragma unroll
        for (int k16 = 0; k16 < depth / 16; k16++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                wgmma<A, TOKENS>::run(step > 0 || k16 > 0, c[b], plain_operand(weights + b * block::weight_bytes + k16 * 2048), swizzled_operand(tokens + k16 * 32));
        wgmma_commit();
    }

    void run() {
        const bool ragged = block::a.offsets != nullptr; // else the block's weights follow from nothing that was computed
        if (ragged) after_earlier();
        const bool any = block::find();
        const int steps = any ? block::steps() : 0;
        float c[BLOCKS][TOKENS / 8][4];
        if (threadIdx.x == 0) {
            for (int s = 0; s < STAGES; s++) begin_barrier(arrival(s));
            publish();
        }
        __syncthreads();
        for (int s = 0; s < min(ahead, steps); s++) load_weights(s);
        if (!ragged) after_earlier();
        if (!any) return;
        block::find_tokens();
#pragma unroll
        for (int s = 0; s < ahead; s++) {
            if (s < steps) block::load_tokens(s);
            commit();
        }
        for (int s = 0; s < steps; s++) {
            wait<ahead - 1>();
            publish();
            wait_barrier(arrival(s), s / STAGES & 1);
            __syncthreads(); // stage s is whole, and all have multiplied stage s-2
            if (s + ahead < steps) load_weights(s + ahead), block::load_tokens(s + ahead);
            commit();
            multiply(s, c);
            wgmma_wait<1>();
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) wgmma_hold(c[b]);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) wgmma_hold(c[b]);
        wait<0>();
        __syncthreads();
        const int warp = threadIdx.x / 32;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int n = 0; n < TOKENS / 8; n++) block::put(c[b][n], (warp / 4 * BLOCKS + b) * 4 + warp % 4, n * 8);
        block::write();
    }
};

#define KERNEL(name, warpgroups, ...)                                                                                  \
    extern "C" __global__ void __launch_bounds__(warpgroups * 128) name(const gemm_args a) {                           \
        extern __shared__ __align__(1024) char shared[];                                                               \
        product<warpgroups, __VA_ARGS__>(a, shared).run(); /* which calls after_earlier */                                                             \
    }

KERNEL(gemm_16, 1, 1, 16, 7)
KERNEL(gemm_32, 1, 1, 32, 6)
KERNEL(gemm_64, 1, 1, 64, 6)
KERNEL(gemm_128, 2, 2, 128, 4)
