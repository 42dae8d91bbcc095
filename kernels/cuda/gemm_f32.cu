// y[i] = e(x[source(i)]·W_eᵀ + b_e) with weights in float32, for one matrix or ragged experts.
// Shapes  x [tokens, in] of A, y [rows, out] of B; w as pack.go leaves it: [experts][rows4][in4] f32, zero padded, four
//         adjacent rows being four outputs, or two of gate and the same two of up.
// Order   lane l sums k = 4l … 4l+3, 4l+128 …, ascending, fused; lanes meet pairwise, 16 apart first. The same for any
//         number of rows and any place among them.
// Tiles   a warp 4 packed rows × 8 tokens; a block 4 warps of packed rows, or one where there are few. No tensor cores:
//         they would round to tf32.
// Bound   FMA for many tokens, memory for few. Checked by optest.Linear and Grouped.
#include "tiles.cuh"

struct gemm_args {
    mat x, y;
    const void* w;
    const float* bias; // [experts][rows4], or none
    const float* scale;
    const int *offsets, *index;
    int* fault;
    int experts, rows, tokens, div; // rows of y, of x
    int in, out, padded_in, padded_rows;
    int gated, act, add, group, aligned, y_f32, op, pad;
};

enum { tokens_of_warp = 8 };

inline void load_whole(float (&v)[4], const float* p) {
    const float4 a = *(const float4*)p;
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
}

template <class T> void load_whole(float (&v)[4], const T* p) {
    const uint2 a = *(const uint2*)p;
    const T e[4] = {{(u16)a.x}, {(u16)(a.x >> 16)}, {(u16)a.y}, {(u16)(a.y >> 16)}};
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = to_float(e[i]);
}

template <class T> void load4(float (&v)[4], const T* p, int n) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = i < n ? to_float(p[i]) : 0.0f;
}

// The sums of 32 lanes meet pairwise; lane l ends with sum l of all in sum[0].
template <int HALF> void meet(float (&sum)[32], int lane) {
    const bool upper = lane & HALF;
#pragma unroll
    for (int j = 0; j < HALF; j++) {
        const float send = upper ? sum[j] : sum[j + HALF], keep = upper ? sum[j + HALF] : sum[j];
        sum[j] = keep + __shfl_xor_sync(0xffffffffu, send, HALF);
    }
    if constexpr (HALF > 1) meet<HALF / 2>(sum, lane);
}

// A lane's share of 4 rows by 8 tokens. WHOLE: rows of x are aligned and no four inputs are cut, so that all loads of a
// step are under way at once.
template <bool WHOLE> void add_products(float (&sum)[32], const float* w, const A* const (&x)[tokens_of_warp], const gemm_args& a) {
    for (int k = threadIdx.x % 32 * 4; k < a.padded_in; k += 128) {
        float4 v[4];
        float u[tokens_of_warp][4];
#pragma unroll
        for (int r = 0; r < 4; r++) v[r] = *(const float4*)(w + (i64)r * a.padded_in + k);
#pragma unroll
        for (int j = 0; j < tokens_of_warp; j++) {
            if constexpr (WHOLE) load_whole(u[j], x[j] + k);
            else load4(u[j], x[j] + k, a.in - k);
        }
#pragma unroll
        for (int j = 0; j < tokens_of_warp; j++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                float& s = sum[r * tokens_of_warp + j];
                s = fmaf(u[j][0], v[r].x, s), s = fmaf(u[j][1], v[r].y, s), s = fmaf(u[j][2], v[r].z, s), s = fmaf(u[j][3], v[r].w, s);
            }
    }
}

extern "C" __global__ void __launch_bounds__(128, 4) gemm_f32(const gemm_args a) {
    after_earlier();
    const tile t = find_tile(a.offsets, a.experts, a.rows, tokens_of_warp, blockIdx.y);
    const int lane = threadIdx.x % 32, row4 = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * 4;
    if (t.rows <= 0 || row4 >= a.padded_rows) return;
    const float* w = (const float*)a.w + ((i64)t.expert * a.padded_rows + row4) * a.padded_in;
    const A* x[tokens_of_warp];
#pragma unroll
    for (int j = 0; j < tokens_of_warp; j++) {
        int source = t.first + min(j, t.rows - 1);
        if (a.index != nullptr) source = a.index[source] / a.div;
        if (source < 0 || source >= a.tokens) {
            if (lane == 0) note_fault(a.fault, a.op, source, t.first + j);
            source = 0;
        }
        x[j] = row_of<A>(a.x, source);
    }
    float sum[4 * tokens_of_warp] = {};
    if (a.aligned && a.in == a.padded_in) add_products<true>(sum, w, x, a);
    else add_products<false>(sum, w, x, a);
    meet<16>(sum, lane);
    const int r = lane / tokens_of_warp, j = lane % tokens_of_warp;
    float v = sum[0];
    if (a.bias != nullptr) v += a.bias[(i64)t.expert * a.padded_rows + row4 + r];
    const float up = __shfl_down_sync(0xffffffffu, v, 2 * tokens_of_warp); // of the row two below
    int column = row4 + r;
#if defined(SWIGLU_LIMIT)
    if (r >= 2) return;
    column = row4 / 2 + r;
    v = clamped_swiglu(v, up, false);
#else
    v = activate(a.act, v);
    if (a.gated) {
        if (r >= 2) return;
        column = row4 / 2 + r;
        v *= up;
    }
#endif
    if (j >= t.rows || column >= a.out) return;
    B* y = row_of<B>(a.y, t.first + j) + column;
    *y = from_float<B>(a.add ? to_float(*y) + v : v);
}
