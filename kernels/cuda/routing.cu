// The slots of each expert from the experts of each choice: a counting sort, stable, all counts on the device.
// Shapes  expert [tokens, k] int (-1: dropped); offsets [experts+1]; choices, place [tokens·k].
// Launch  a block an expert, and one for what was dropped: each counts the choices of the experts before its own, then
//         lists its own in order. Reads the choices twice a block, from L2. Checked by optest.Table.
#include "common.cuh"

struct table_args {
    mat expert;
    int *offsets, *choices, *place;
    int* fault;
    int tokens, k, experts, op;
};

extern "C" __global__ void __launch_bounds__(1024) table(const table_args a) {
    after_earlier();
    const int mine = blockIdx.x, n = a.tokens * a.k; // mine == experts: the dropped ones, which come last
    auto expert_of = [&](int i) {
        const int e = row_of<int>(a.expert, i / a.k)[i % a.k];
        return e < 0 ? a.experts : e;
    };
    int before = 0, own = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const int e = expert_of(i);
        if (e > a.experts) note_fault(a.fault, a.op, e, i);
        before += e < mine;
        own += e == mine;
    }
    int at = block_sum(before);
    own = block_sum(own);
    if (threadIdx.x == 0) a.offsets[mine] = at; // offsets[experts] is where the dropped ones begin
    if (own == 0) return;
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x;
        const bool is = i < n && expert_of(i) == mine;
        int all;
        const int rank = block_rank(is, all);
        if (is) {
            a.choices[at + rank] = mine < a.experts ? i : -1;
            a.place[i] = mine < a.experts ? at + rank : -1;
        }
        at += all;
    }
}
