// Boards: memory of each rank into which the kernels of all ranks of a group write what these add up or put together.
//
// Board   for each source rank the numbers of the last op whose part is there, one for each block of the op's kernel; then room for
//         two messages of each source, of ops with odd and with even numbers.
// An op   on all ranks alike, of as many blocks: a block writes its part of the message into all boards, releases its op's number
//         there, waits for the same block of all other ranks, and reads what these have written: the same part of their messages.
// Order   a rank writes op n+2 when its op n+1 is through, in which it has seen that all others have begun that, and so have read
//         what was written for op n. Nothing is cleared. The number is counted in the device's memory, so replayed graphs count on.
// Launch  so few blocks that all have a multiprocessor at once: each waits for its like on the other GPUs.
#pragma once
#include "reach.cuh"

// What a rank keeps of its ops, for itself.
struct doings {
    u64 number; // of the last one that is through
    int through; // blocks of the one that runs
    int lost;    // whether a rank did not come: nothing is waited for any more
};

struct board {
    const u64* peers; // [ranks], where their boards lie for this rank
    doings* own;
    int* fault;
    i64 room, notes;  // bytes of a message; of the numbers
    i64 patience;
    int rank, ranks;
    int name;         // that the host knows it by
    int op;
};

constexpr int BLOCKS = 128;     // kernels.BoardBlocks
constexpr int SEGMENT = 2048;   // elements of a row that a block moves at a time

inline u64* number_at(const board& b, int at, int from) { return (u64*)b.peers[at] + from * BLOCKS + blockIdx.x; }

// Row of a message of an op, in the board of rank at.
template <class T> T* message_row(const board& b, int at, int from, u64 number, i64 row, int cols) {
    const i64 pitch = ((i64)cols * sizeof(T) + 15) / 16 * 16;
    return (T*)(b.peers[at] + b.notes + ((number & 1) * b.ranks + from) * b.room + row * pitch);
}

// Calls do(row, first element, elements) for this block's segments of rows.
template <class Do> void each_segment(int rows, int cols, const Do& work) {
    const int segments = (cols + SEGMENT - 1) / SEGMENT;
    for (int u = blockIdx.x; u < rows * segments; u += gridDim.x) {
        const int at = u % segments * SEGMENT;
        work(u / segments, at, min(SEGMENT, cols - at));
    }
}

// The whole block copies n elements.
template <class T> void copy_segment(T* dst, const T* src, int n) {
    constexpr int EACH = 16 / sizeof(T);
    const int whole = aligned(dst) && aligned(src) ? n / EACH : 0;
    for (int i = threadIdx.x; i < whole; i += blockDim.x) ((uint4*)dst)[i] = ((const uint4*)src)[i];
    for (int i = whole * EACH + threadIdx.x; i < n; i += blockDim.x) dst[i] = src[i];
}

// Tells all ranks that this block's part of an op is there, and waits until theirs are. The whole block calls. False: one did not
// come for so long, now or before.
inline bool meet(const board& b, u64 number) {
    __shared__ int silent;
    if (threadIdx.x == 0) silent = b.ranks;
    __syncthreads();
    const int other = threadIdx.x;
    if (other < b.ranks && other != b.rank) {
        release(number_at(b, other, b.rank), number);
        if (!comes(number_at(b, b.rank, other), number, b.patience)) atomicMin(&silent, other);
    }
    __syncthreads();
    const int from = silent;
    if (from == b.ranks) return true;
    if (threadIdx.x == 0) {
        b.own->lost = 1;
        b.fault[3] = b.name;
        note_fault(b.fault, b.op, from, 0);
    }
    return false;
}

// The last block that is through counts the op.
inline void through(const board& b, u64 number) {
    if (threadIdx.x != 0 || atomicAdd(&b.own->through, 1) != gridDim.x - 1) return;
    b.own->through = 0;
    b.own->number = number;
}
