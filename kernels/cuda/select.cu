// dst[i] = src[index[i]/div]; an index of -1 leaves the row as it is. Elements are 2 or 4 bytes, moved as they are.
// Launch  a thread a chunk of 8 values. Bound: memory. Checked by optest.Select.
#include "common.cuh"

struct select_args {
    mat dst, src;
    const int* index;
    int* fault;
    int rows, cols, from, div, op, pad;
};

template <class T> void select_rows(const select_args& a) {
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / chunks;
    const int at = (int)(i % chunks) * 8, n = a.cols - at;
    if (row >= a.rows) return;
    const int index = a.index[row];
    if (index == -1) return;
    if (index < 0 || index / a.div >= a.from) return note_fault(a.fault, a.op, index, (int)row);
    const T* src = row_of<T>(a.src, index / a.div) + at;
    T* dst = row_of<T>(a.dst, row) + at;
    if (n >= 8 && aligned(src) && aligned(dst)) {
#pragma unroll
        for (int j = 0; j < sizeof(T) / 2; j++) ((uint4*)dst)[j] = ((const uint4*)src)[j];
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (j < n) dst[j] = src[j];
}

extern "C" __global__ void select2(const select_args a) { after_earlier(), select_rows<u16>(a); }
extern "C" __global__ void select4(const select_args a) { after_earlier(), select_rows<u32>(a); }
