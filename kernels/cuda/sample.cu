// One draw for each row of logits: repetition penalty, temperature, top-k, top-p, min-p, then the first token whose
// cumulative weight in order of falling logits, ties by id, exceeds u.
//
// Nothing is sorted. A token's place in the order is a 64-bit key (order of its logit, then of its id); a cut is the key
// of the last token kept. What has a given count or weight before it is found by histograms over 11, 11 and 10 bits of
// the order of the logit, and over ids among equals. Weights are sums of integers, 2⁴⁴ for the largest token: exact, so
// that neither the order of atomics nor the number of rows can change a bit.
//
// Shapes  logits [rows, >= vocab] f32; all others [rows, 1] but top_id, top_logprob [rows, top].
// Launch  a block of 1024 a row; shared: the bits of the ids that the penalty is for, (vocab+31)/32 words.
// Bound   passes over a row that lies in L2: 2 for the argmax, some 12 with every filter on. Checked by optest.Sample.
#include "vocab.cuh"

struct sample_args {
    mat logits, temperature, top_k, top_p, min_p, penalty, u, token, logprob, top_id, top_logprob;
    const int *seen_start, *seen;
    int* fault;
    int vocab, columns, top, op;
};

enum { bins = 2048 };
struct histogram {
    u64 mass[bins];
    u32 count[bins];
};

struct draw {
    const float* logits;
    const u32* seen; // bits, or none
    float penalty, temperature, top, min_p;
    int vocab;
    u64 last; // the least key kept
    u64 best;

    float logit(int i) const {
        const float x = logits[i];
        if (seen == nullptr || !(seen[i / 32] >> (i % 32) & 1)) return x;
        return x > 0 ? x / penalty : x * penalty;
    }
    u64 key(int i, float x) const { return (u64)order_of(x) << 32 | (u32)~i; }
    // 2⁴⁴ times the probability over that of the most probable token.
    u64 weight(float x) const {
        const float w = expf((x - top) / temperature);
        return w > 0 ? (u64)((double)w * 17592186044416.0 + 0.5) : 0;
    }
    bool keeps(u64 k, float x) const {
        if (k < last) return false;
        return k == best || !(min_p > 0) || expf((x - top) / temperature) >= min_p;
    }
};

// The weight of all tokens kept.
inline u64 mass_of(const draw& d) {
    u64 sum = 0;
    for (int i = threadIdx.x; i < d.vocab; i += vocab_threads) {
        const float x = d.logit(i);
        if (d.keeps(d.key(i, x), x)) sum += d.weight(x);
    }
    return block_sum(sum);
}

// The first bin from the top whose count (or mass) with all above it exceeds target, else the last one that holds
// anything; before, which counted what is above all bins, becomes what is above that one.
inline int bin_of(const histogram& h, bool by_mass, u64 target, u64& before) {
    __shared__ int found;
    __shared__ u64 above;
    __syncthreads();
    if (threadIdx.x < 32) { // a lane takes 64 bins, from the top
        const int lane = threadIdx.x, from = bins - 1 - lane * (bins / 32);
        u64 mine = 0;
        int lowest = -1;
        for (int k = from; k > from - bins / 32; k--) {
            mine += by_mass ? h.mass[k] : h.count[k];
            if (h.count[k] > 0) lowest = k;
        }
        u64 sum = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const u64 x = __shfl_up_sync(0xffffffffu, sum, o);
            if (lane >= o) sum += x;
        }
        const u32 over = __ballot_sync(0xffffffffu, before + sum > target), held = __ballot_sync(0xffffffffu, lowest >= 0);
        if (lane == (over == 0 ? 31 - __clz(held) : __ffs(over) - 1)) {
            u64 b = before + sum - mine;
            int k = from;
            for (; k > lowest; k--) {
                const u64 m = by_mass ? h.mass[k] : h.count[k];
                if (b + m > target) break;
                b += m;
            }
            found = k, above = b;
        }
    }
    __syncthreads();
    before = above;
    return found;
}

// The key of the first token kept, in order, at which the count (or the weight) of it and all before it exceeds target;
// of the last one where none does.
inline u64 find(const draw& d, histogram& h, bool by_mass, u64 target) {
    u64 before = 0;
    u32 prefix = 0;
    int known = 0; // bits of the order
#pragma unroll 1
    for (int level = 0; level < 3; level++) {
        const int width = level < 2 ? 11 : 10, shift = 32 - known - width;
        __syncthreads();
        for (int i = threadIdx.x; i < bins; i += vocab_threads) h.mass[i] = 0, h.count[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < d.vocab; i += vocab_threads) {
            const float x = d.logit(i);
            const u32 order = order_of(x);
            if (known > 0 && order >> (32 - known) != prefix) continue;
            if (!d.keeps(d.key(i, x), x)) continue;
            const u32 b = order >> shift & ((1u << width) - 1);
            atomicAdd(&h.count[b], 1u);
            if (by_mass) {
                const u64 w = d.weight(x);
                if (w > 0) atomicAdd(&h.mass[b], w);
            }
        }
        prefix = prefix << width | (u32)bin_of(h, by_mass, target, before);
        known += width;
    }
    // All of one logit, and so of one weight: the id follows from how many are needed.
    float x = 0;
    u64 each = 1, need = 0;
    int found = d.vocab, met = 0, lastly = -1;
    for (int first = 0; first < d.vocab; first += vocab_threads) {
        const int i = first + threadIdx.x;
        bool is = false;
        if (i < d.vocab) {
            x = d.logit(i);
            is = order_of(x) == prefix && d.keeps(d.key(i, x), x);
        }
        int all;
        const int rank = met + block_rank(is, all);
        if (is) {
            each = by_mass ? d.weight(x) : 1;
            need = before + each * (u64)(rank + 1);
            if (need > target) found = min(found, i);
            lastly = i;
        }
        met += all;
    }
    __shared__ int first_found, last_found;
    __syncthreads();
    if (threadIdx.x == 0) first_found = d.vocab, last_found = -1;
    __syncthreads();
    if (found < d.vocab) atomicMin(&first_found, found);
    if (lastly >= 0) atomicMax(&last_found, lastly);
    __syncthreads();
    const int id = first_found < d.vocab ? first_found : last_found;
    return (u64)prefix << 32 | (u32)~id;
}

inline u64 ceil_of(double x) {
    const u64 y = (u64)x;
    return (double)y < x ? y + 1 : y;
}

extern "C" __global__ void __launch_bounds__(1024) sample(const sample_args a) {
    after_earlier();
    extern __shared__ u32 seen[];
    __shared__ histogram h;
    const i64 row = blockIdx.x;
    draw d = {};
    d.logits = row_of<float>(a.logits, row);
    d.vocab = a.vocab;
    const u64 raw_best = block_first(a.vocab, ~0ull, [&](int i) { return d.logits[i]; });
    // The sum is over all columns: what is beyond the vocabulary is never chosen, but it counts.
    const int top = a.columns == a.vocab ? id_of(raw_best) : id_of(block_first(a.columns, ~0ull, [&](int i) { return d.logits[i]; }));
    const double sum = block_log_sum(d.logits, a.columns, d.logits[top]);
    u64 reported = ~0ull;
    for (int j = 0; j < a.top; j++) {
        reported = j == 0 ? raw_best : block_first(a.vocab, reported, [&](int i) { return d.logits[i]; });
        if (threadIdx.x == 0) {
            const int id = id_of(reported);
            row_of<int>(a.top_id, row)[j] = id;
            row_of<float>(a.top_logprob, row)[j] = (float)((double)d.logits[id] - sum);
        }
    }
    d.penalty = *row_of<float>(a.penalty, row);
    u64 token = raw_best;
    if (d.penalty != 1 && a.seen_start != nullptr) {
        for (int i = threadIdx.x; i < (a.vocab + 31) / 32; i += vocab_threads) seen[i] = 0;
        __syncthreads();
        for (int i = a.seen_start[row] + threadIdx.x; i < a.seen_start[row + 1]; i += vocab_threads) {
            const int id = a.seen[i];
            if (id < 0 || id >= a.vocab) note_fault(a.fault, a.op, id, i);
            else atomicOr(&seen[id / 32], 1u << (id % 32));
        }
        __syncthreads();
        d.seen = seen;
        token = block_first(a.vocab, ~0ull, [&](int i) { return d.logit(i); });
    }
    d.temperature = *row_of<float>(a.temperature, row);
    if (d.temperature > 0) {
        d.best = token;
        d.top = d.logit(id_of(token));
        const int top_k = *row_of<int>(a.top_k, row);
        const float top_p = *row_of<float>(a.top_p, row);
        if (top_k > 0 && top_k < a.vocab) d.last = find(d, h, false, (u64)(top_k - 1));
        u64 mass = mass_of(d);
        if (top_p < 1) { // kept while the weight before is less than top_p of all: the last one is where it reaches that
            const u64 bound = ceil_of((double)top_p * (double)mass);
            d.last = bound > 0 ? find(d, h, true, bound - 1) : d.best;
            mass = mass_of(d);
        }
        d.min_p = *row_of<float>(a.min_p, row);
        if (d.min_p > 0) mass = mass_of(d);
        token = find(d, h, true, (u64)((double)*row_of<float>(a.u, row) * (double)mass));
    }
    if (threadIdx.x > 0) return;
    const int id = id_of(token);
    *row_of<int>(a.token, row) = id;
    *row_of<float>(a.logprob, row) = (float)((double)d.logits[id] - sum);
}
