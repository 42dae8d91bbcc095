// y[t] = table[ids[t]] + positions[pos[t]].
// Shapes  y [tokens, cols] of A; table [vocab, cols], positions [window, cols] of B; ids, pos [tokens]; positions may be none.
// Order   one sum in float32, rounded once.
// Launch  a thread a chunk of 8 values. Bound: memory. Checked by optest.Embed.
#include "common.cuh"

struct embed_args {
    mat y, table, positions;
    const int *ids, *pos;
    int* fault;
    int tokens, cols, vocab, window, op, pad;
};

extern "C" __global__ void embed(const embed_args a) {
    after_earlier();
    const int chunks = (a.cols + 7) / 8;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, t = i / chunks;
    const int at = (int)(i % chunks) * 8;
    if (t >= a.tokens) return;
    const int id = a.ids[t];
    if (id < 0 || id >= a.vocab) return note_fault(a.fault, a.op, id, (int)t);
    float v[8], p[8];
    load8(v, row_of<B>(a.table, id) + at, a.cols - at);
    if (a.pos != nullptr) {
        const int place = a.pos[t];
        if (place < 0 || place >= a.window) return note_fault(a.fault, a.op, place, (int)t);
        load8(p, row_of<B>(a.positions, place) + at, a.cols - at);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] += p[j];
    }
    store8(row_of<A>(a.y, t) + at, v, a.cols - at);
}
