// The slots of each expert from the experts of each choice: a counting sort, stable, all counts on the device.
// Shapes  expert [tokens, k] int (-1: dropped); offsets [experts+1]; choices, place [tokens·k].
// Launch  a block an expert, and one for what was dropped: each counts the choices of the experts before its own, then
//         lists its own in order. A warp has a run of choices, a lane 4 neighbours of 128, so that warps meet once.
// Bound   reads the choices twice a block, from L2. Checked by optest.Table.
#include "common.cuh"

struct table_args {
    mat expert;
    int *offsets, *choices, *place;
    int* fault;
    int tokens, k, experts, op;
};

// The experts of 4 neighbouring choices: a.experts of those dropped, more of those beyond n.
inline void experts_of(int (&e)[4], const table_args& a, bool flat, int i, int n) {
    if (flat && i + 4 <= n) {
        const int4 four = *(const int4*)((const int*)a.expert.data + i);
        e[0] = four.x, e[1] = four.y, e[2] = four.z, e[3] = four.w;
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) e[j] = i + j < n ? row_of<int>(a.expert, (i + j) / a.k)[(i + j) % a.k] : a.experts + 1;
    }
#pragma unroll
    for (int j = 0; j < 4; j++) e[j] = e[j] < 0 ? a.experts : e[j];
}

extern "C" __global__ void __launch_bounds__(1024) table(const table_args a) {
    after_earlier();
    const int mine = blockIdx.x, n = a.tokens * a.k; // mine == experts: the dropped ones, which come last
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int rounds = (n + warps * 128 - 1) / (warps * 128), from = warp * rounds * 128, to = min(n, from + rounds * 128);
    const bool flat = a.expert.stride == a.k && aligned((const int*)a.expert.data);
    int before = 0, own = 0, wrong = -1, e[4];
#pragma unroll 4
    for (int i = from + lane * 4; i < to; i += 128) {
        experts_of(e, a, flat, i, n);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            before += e[j] < mine;
            own += e[j] == mine;
            if (e[j] > a.experts && i + j < n) wrong = i + j;
        }
    }
    if (wrong >= 0) note_fault(a.fault, a.op, row_of<int>(a.expert, wrong / a.k)[wrong % a.k], wrong);
    int at = block_sum(before);
    if (threadIdx.x == 0) a.offsets[mine] = at; // offsets[experts] is where the dropped ones begin
    __shared__ int owned[32];
    own = warp_sum(own);
    if (lane == 0) owned[warp] = own;
    __syncthreads();
    for (int w = 0; w < warp; w++) at += owned[w];
    if (own == 0) return;
#pragma unroll 4
    for (int first = from; first < to; first += 128) {
        const int i = first + lane * 4;
        experts_of(e, a, flat, i, n);
        int rank = at;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const u32 votes = __ballot_sync(0xffffffffu, e[j] == mine);
            rank += __popc(votes & ((1u << lane) - 1));
            at += __popc(votes);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (e[j] != mine) continue;
            a.choices[rank] = mine < a.experts ? i + j : -1;
            a.place[i + j] = mine < a.experts ? rank : -1;
            rank++;
        }
    }
}
