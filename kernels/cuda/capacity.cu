// Drops the choices over an expert's capacity: expert -1, weight 0.
// Shapes  expert [tokens, k] int, weight [tokens, k] f32.
// Launch  drop: a block an expert, 1024 threads; renormalise: a thread a token, after all of drop.
//         By position the first C choices stay, in order of tokens or of rank and token. By probability the C of largest
//         weight, the earlier of equals: the C-th weight is found bit by bit (32 counts), ties go by order.
// Checked by optest.Drop and Gating.
#include "common.cuh"

struct drop_args {
    mat expert, weight;
    int tokens, k, capacity, by_probs, rank_first;
    float scale;
};

extern "C" __global__ void __launch_bounds__(1024) drop(const drop_args a) {
    after_earlier();
    const int mine = blockIdx.x, n = a.tokens * a.k;
    auto token_of = [&](int i) { return a.rank_first ? i % a.tokens : i / a.k; };
    auto choice_of = [&](int i) { return a.rank_first ? i / a.tokens : i % a.k; };
    auto expert_at = [&](int i) { return row_of<int>(a.expert, token_of(i)) + choice_of(i); };
    auto weight_at = [&](int i) { return row_of<float>(a.weight, token_of(i)) + choice_of(i); };
    int own = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) own += *expert_at(i) == mine;
    if (block_sum(own) <= a.capacity) return;
    u32 least = 0;       // all of larger order stay
    int room = a.capacity; // for those of this order
    if (a.by_probs) {
        for (u32 bit = 0x80000000u; bit != 0 && a.capacity > 0; bit >>= 1) {
            int above = 0;
            for (int i = threadIdx.x; i < n; i += blockDim.x)
                above += *expert_at(i) == mine && order_of(*weight_at(i)) >= (least | bit);
            if (block_sum(above) >= a.capacity) least |= bit;
        }
        int above = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) above += *expert_at(i) == mine && order_of(*weight_at(i)) > least;
        room -= a.capacity > 0 ? block_sum(above) : 0;
    }
    int met = 0;
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x;
        const bool is = i < n && *expert_at(i) == mine;
        const u32 order = is && a.by_probs ? order_of(*weight_at(i)) : least;
        int all;
        const int rank = met + block_rank(is && order == least, all);
        if (is && (order < least || a.capacity == 0 || (order == least && rank >= room))) *expert_at(i) = -1, *weight_at(i) = 0;
        met += all;
    }
}

extern "C" __global__ void renormalise(const drop_args a) {
    after_earlier();
    const i64 t = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= a.tokens) return;
    float* weight = row_of<float>(a.weight, t);
    float sum = 0;
    for (int c = 0; c < a.k; c++) sum += weight[c];
    sum = fmaxf(sum, 1.1920929e-07f);
    for (int c = 0; c < a.k; c++) weight[c] = weight[c] / sum * a.scale;
}
