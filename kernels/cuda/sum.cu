// y[t] = Σ_r own_r[t] over the ranks of a group, or y +=: each writes its partial results into the boards of the others, and adds.
// Shapes  y [rows, cols] of A, own [rows, cols] f32; at most 16 ranks.
// Order   a tree of neighbours in float32 over the ranks (reduce.cuh), rounded once: the bits of reduce.cu over the gathered parts.
// Launch  128 blocks or as many as there are segments. Bound: NVLink, and for few rows the way there. Checked by TestBoards.
#include "board.cuh"
#include "reduce.cuh"

struct sum_args {
    board b;
    mat y, own;
    int rows, cols, adds_to_y, pad;
};

extern "C" __global__ void __launch_bounds__(256) sum(const sum_args a) {
    after_earlier();
    const board& b = a.b;
    if (b.own->lost) return;
    const u64 number = b.own->number + 1;
    each_segment(a.rows, a.cols, [&](int row, int at, int n) {
        const float* own = row_of<float>(a.own, row) + at;
        for (int i = 1; i < b.ranks; i++) {
            const int to = (b.rank + i) % b.ranks;
            copy_segment((u32*)message_row<float>(b, to, b.rank, number, row, a.cols) + at, (const u32*)own, n);
        }
    });
    if (!meet(b, number)) return;
    each_segment(a.rows, a.cols, [&](int row, int first, int n) {
        for (int c = threadIdx.x * 8; c < n; c += blockDim.x * 8) {
            const int at = first + c;
            float sum[8];
            reduce8<5>(sum, b.ranks, [&](float (&v)[8], int r) {
                const float* part = r == b.rank ? row_of<float>(a.own, row) : message_row<float>(b, b.rank, r, number, row, a.cols);
                load8(v, part + at, n - c);
            });
            store_sum(row_of<A>(a.y, row) + at, sum, n - c, a.adds_to_y);
        }
    });
    through(b, number);
}
