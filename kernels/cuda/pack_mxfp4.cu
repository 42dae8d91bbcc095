// Puts rows of an MXFP4 matrix, as a checkpoint has it, where products look for them (mxfp4.cuh); pads are zeroed before.
// Shapes  source of numbers [rows, in/2], of scales [rows, in/32], bytes; of the part's rows those from first_row on. w: the expert's.
// Launch  numbers: a thread a word, 8 numbers of a row. scales: a thread a byte.
// Checked by optest.MXFP4, Linear and Grouped.
#include "mxfp4.cuh"
#include "packed.cuh"

struct mxfp4_args {
    const unsigned char* source;
    char* w;
    int rows, in, padded_in;
    int first_row, gated, row0; // gated: row0 is 0 for gate, 1 for up
};

// The stage of 64 rows that has a packed row's inputs of a group of 32.
inline char* stage_of(const mxfp4_args& a, int row, int group) {
    return a.w + ((i64)(row / 64) * (a.padded_in / 64) + group / 2) * mxfp4_stage;
}

extern "C" __global__ void numbers(const mxfp4_args a) {
    after_earlier();
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, words = a.in / 8;
    if (i >= words * a.rows) return;
    const int group = (int)(i % words / 4), t = (int)(i % 4), row = packed_row<16>((int)(i / words) + a.first_row, a.gated, a.row0);
    const unsigned char* from = a.source + i / words * (a.in / 2) + group * 16 + t;
    const unsigned char bytes[4] = {from[0], from[4], from[8], from[12]};
    u32* to = (u32*)(stage_of(a, row, group) + group % 2 * (mxfp4_numbers / 2));
    to[row % 64 / 16 * 64 + (row % 8 * 4 + t) * 2 + row % 16 / 8] = mxfp4_word(bytes);
}

extern "C" __global__ void scales(const mxfp4_args a) {
    after_earlier();
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, groups = a.in / 32;
    if (i >= groups * a.rows) return;
    const int group = (int)(i % groups), row = packed_row<16>((int)(i / groups) + a.first_row, a.gated, a.row0);
    char* to = stage_of(a, row, group) + mxfp4_numbers;
    to[row % 64 / 16 * 32 + row % 8 * 4 + row % 16 / 8 * 2 + group % 2] = (char)(a.source[i] + 126);
}
