// A block of Hopper's matrix products for few tokens (sm90_gemm.cu, sm90_gemm_narrow.cu): how its stages fill. Weights come by the
// copy engine, 64 rows a copy, counted by a barrier a stage, tokens by cp.async, both two stages before they are used: while
// one is multiplied, the one before is still being read.
#pragma once
#include "gemm.cuh"
#include "bulk.cuh"
#include "wgmma.cuh"

// WARPGROUPS of 4 warps, each with BLOCKS·64 rows and all tokens.
template <int WARPGROUPS, int BLOCKS, int TOKENS, int STAGES>
struct sm90_block : gemm_block<WARPGROUPS * BLOCKS, TOKENS, STAGES, WARPGROUPS * 128> {
    using block = gemm_block<WARPGROUPS * BLOCKS, TOKENS, STAGES, WARPGROUPS * 128>;
    using block::a, block::shared;
#ifdef IN_ROWS
    const boxes* rows; // of weights that are not packed
#endif
    enum { ahead = STAGES - 2, barriers = STAGES * block::stage_bytes }; // the latter's place in shared memory

    sm90_block(const gemm_args& a, char* shared) : block(a, shared) {}

    u32 stage_at(int step) const { return shared_address(shared) + step % STAGES * block::stage_bytes; }
    u32 arrival(int step) const { return shared_address(shared) + barriers + step % STAGES * 8; }

    void load_weights(int step) {
        if (threadIdx.x > 0) return;
        const int left = (a.padded_rows - block::first_row()) / 64, n = min(left, WARPGROUPS * BLOCKS);
        expect(arrival(step), n * block::weight_bytes);
        for (int b = 0; b < n; b++) // of rows beyond, what lies there stays: nobody reads their sums
#ifdef IN_ROWS
            copy_box(stage_at(step) + b * block::weight_bytes, *rows, step * depth, block::first_row() + b * 64, arrival(step));
#else
            copy_bulk(stage_at(step) + b * block::weight_bytes, block::w + ((i64)b * block::steps() + step) * block::weight_bytes,
                      block::weight_bytes, arrival(step));
#endif
    }

    // Waits for what was launched before, and has the first stages on their way; false where the block has nothing to do.
    bool begin() {
#ifdef IN_ROWS
        if (threadIdx.x == 0) fetch_boxes(*rows);
#endif
        const bool ragged = a.offsets != nullptr; // else the block's weights follow from nothing that was computed
        if (ragged) after_earlier();
        const int steps = block::find() ? block::steps() : 0;
        if (threadIdx.x == 0) {
            for (int s = 0; s < STAGES; s++) begin_barrier(arrival(s));
            publish();
        }
        __syncthreads();
        for (int s = 0; s < min(ahead, steps); s++) load_weights(s);
        if (!ragged) after_earlier();
        if (steps == 0) return false;
        block::find_tokens();
#pragma unroll
        for (int s = 0; s < ahead; s++) {
            if (s < steps) block::load_tokens(s);
            commit();
        }
        return true;
    }

    // Waits until the stage of a step is whole and all have multiplied the one two before, whose place is filled again.
    void await(int step) {
        wait<ahead - 1>();
        publish();
        wait_barrier(arrival(step), step / STAGES & 1);
        __syncthreads();
        if (step + ahead < block::steps()) load_weights(step + ahead), block::load_tokens(step + ahead);
        commit();
    }
};
