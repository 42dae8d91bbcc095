// Puts a part of a matrix, as a checkpoint has it, where gemm.cu or gemm_f32.cu looks for it; pads are zeroed before.
// Shapes  source [rows, in] of B, or [in, rows]: of the part's rows those from first_row on, of its inputs those from
//         first_in on, an even number, int8 whole groups; w of A: the order that those files tell; scale [groups][padded rows] f32.
// Launch  pack: a thread two inputs of a row; int8: measure before it, a warp a group of a row, scales after it, a thread a group.
// Checked by optest.Linear and Grouped.
#include "common.cuh"
#include "packed.cuh"

struct pack_args {
    const void* source;
    void* w;
    float* scale;
    int rows, in, transposed;
    int gated, row0; // gated: row0 is 0 for gate, 1 for up
    int padded_in, padded_rows, group;
    int first_row, first_in;
    int in_rows, pad; // 16 bits: as a matrix [rows, padded in], not in pieces
};

// Rows and inputs are those of the source, but where they are named so.

inline float value(const pack_args& a, i64 row, i64 k) {
    if (k >= a.in) return 0;
    return to_float(((const B*)a.source)[a.transposed ? k * a.rows + row : row * a.in + k]);
}

template <int SIZE> int packed_row(const pack_args& a, int row) { return packed_row<SIZE>(row + a.first_row, a.gated, a.row0); }

// Where the inputs k, k+1 of a packed row lie, in elements: 64 rows by 16 inputs are 1024 elements; of 16 bits in pieces
// of 8 rows × 8 inputs, as ldmatrix and wgmma want them; int8 in tiles of 16 rows, each lane's share of m16n8k16 together.
template <class T> i64 place_of(const pack_args& a, int row, int k) {
    if (a.in_rows) return (i64)row * a.padded_in + k;
    const i64 at = ((i64)(row / 64) * (a.padded_in / 16) + k / 16) * 1024;
    return at + k % 16 / 8 * 512 + row % 64 * 8 + k % 8;
}
template <> inline i64 place_of<i8>(const pack_args& a, int row, int k) {
    const int i = row % 16, r = k % 16, lane = i % 8 * 4 + r % 8 / 2, word = i / 8 + r / 8 * 2;
    return ((i64)(row / 64) * (a.padded_in / 16) + k / 16) * 1024 + row % 64 / 16 * 256 + lane * 8 + word * 2;
}

template <class T> void put(const pack_args& a, int row, int k) {
    T* w = (T*)a.w + place_of<T>(a, packed_row<16>(a, row), a.first_in + k);
    w[0] = from_float<T>(value(a, row, k));
    w[1] = from_float<T>(value(a, row, k + 1));
}
template <> inline void put<float>(const pack_args& a, int row, int k) {
    float* w = (float*)a.w + (i64)packed_row<4>(a, row) * a.padded_in + a.first_in + k;
    w[0] = value(a, row, k);
    if (a.first_in + k + 1 < a.padded_in) w[1] = value(a, row, k + 1);
}
template <> inline void put<i8>(const pack_args& a, int row, int k) {
    const int p = packed_row<16>(a, row);
    i8* w = (i8*)a.w + place_of<i8>(a, p, a.first_in + k);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (k + i >= a.in) continue;
        const float most = a.scale[(i64)((a.first_in + k + i) / a.group) * a.padded_rows + p];
        w[i] = most > 0 ? (i8)max(-127, min(127, __float2int_rn(value(a, row, k + i) * (127 / most)))) : 0; // 0 of a NaN
    }
}

extern "C" __global__ void pack(const pack_args a) {
    after_earlier();
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, pairs = (a.in + 1) / 2;
    if (i >= pairs * a.rows) return;
    if (a.transposed) put<A>(a, (int)(i % a.rows), (int)(i / a.rows) * 2);
    else put<A>(a, (int)(i / pairs), (int)(i % pairs) * 2);
}

// Where the scale of group i of the source's is; its row and its group of that row.
inline float* scale_of(const pack_args& a, i64 i, int* row, int* group) {
    const int groups = a.in / a.group;
    *row = (int)(i / groups), *group = (int)(i % groups);
    return a.scale + (i64)(a.first_in / a.group + *group) * a.padded_rows + packed_row<16>(a, *row);
}

// The largest magnitude of a group, in place of its scale; 0 where all are too small to be told from 0, NaN where one is
// infinite or not a number, so that what is computed from them is seen to be spoilt.
extern "C" __global__ void measure(const pack_args a) {
    after_earlier();
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (i >= (i64)a.rows * (a.in / a.group)) return;
    int row, group;
    float* scale = scale_of(a, i, &row, &group);
    u32 most = 0; // magnitudes compare as their bits do, a NaN above infinity
    for (int k = lane; k < a.group; k += 32) most = max(most, __float_as_uint(value(a, row, group * a.group + k)) & 0x7fffffffu);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) most = max(most, __shfl_xor_sync(0xffffffffu, most, o));
    const float m = __uint_as_float(most);
    if (lane == 0) *scale = most >= 0x7f800000u ? __uint_as_float(0x7fc00000u) : m >= 1e-30f ? m : 0.0f;
}

// The scale of a group is its largest magnitude over 127. Numbers are values times 127 over that magnitude, as
// kernels/cpu rounds them: values over the scale are the next number in one weight of 2500.
extern "C" __global__ void scales(const pack_args a) {
    after_earlier();
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (i64)a.rows * (a.in / a.group)) return;
    int row, group;
    *scale_of(a, i, &row, &group) /= 127;
}
