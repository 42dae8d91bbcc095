// One draw for each row of logits: repetition penalty, banned tokens, temperature, top-k, top-p, min-p, then the first
// token whose cumulative weight in order of falling logits, ties by id, exceeds u.
//
// Nothing is sorted but a few tokens. What the filters keep is always the first tokens of that order, so that a filter is
// but a smaller sum of weights to draw from. Where a sum ends is looked up in a histogram over the distance from the
// most probable token, and then among the tokens of one bin, which are gathered and sorted.
//
// Shapes  logits [rows, >= vocab] f32; all others [rows, 1] but top_id, top_logprob [rows, top] and lists of ids.
// Launch  a block of 1024 a row; shared: where rows have a penalty, 16 bytes and (vocab+31)/32 words.
// Bound   passes over a row, by memory: 1 for the argmax, 3 for a draw, 1 more for each of penalty, ban, top-k, top-p and min-p.
// Checked by optest.Sample.
#include "histogram.cuh"

struct sample_args {
    mat logits, temperature, top_k, top_p, min_p, penalty, u, ban, token, logprob, top_id, top_logprob;
    const int *seen_start, *seen, *banned;
    int* fault;
    int vocab, columns, top, op, banned_ids; // of banned, 0: no row bans
};

enum {
    listed = 2048, // most tokens that are sorted
    parts = 1024   // of a bin with more of them
};

struct workspace {
    histogram<bins> by_distance;
    union {
        u64 list[listed]; // keys
        histogram<parts> by_key;
    };
    u32 number; // of keys that were to be listed
};

// A repetition penalty in shared memory: what it multiplies logits above 0 with, and others. A product in float64, rounded
// once more, is what a division gives.
struct penalty {
    double lower, raise;
    u32* seen() const { return (u32*)(this + 1); } // a bit an id
};

// A row as the draw sees it.
struct draw {
    const float* logits;
    const penalty* repeated; // or none
    float top, inverse;
    int vocab;

    float distance(float x) const { return (top - x) * inverse; }

    template <class F> void each(F use) const {
        each_group(logits, vocab, [&](int first, float (&v)[vocab_group]) {
            if (repeated != nullptr) {
#pragma unroll
                for (int p = 0; p < vocab_group; p += 4) {
                    const int at = id_in_group(first, p);
                    const u32 those = at < vocab ? repeated->seen()[at / 32] >> (at % 32) & 15 : 0;
                    if (those == 0) continue;
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        if (those >> j & 1) v[p + j] = (float)(v[p + j] * (v[p + j] > 0 ? repeated->lower : repeated->raise));
                }
            }
            use(first, v);
        });
    }
    // Calls use(key, logit, distance) for the tokens of the bins first_bin to last_bin.
    template <class F> void each_of(int first_bin, int last_bin, F use) const {
        each([&](int first, const float (&v)[vocab_group]) {
#pragma unroll
            for (int i = 0; i < vocab_group; i++) {
                const float z = distance(v[i]);
                const int b = bin_of(z);
                if (b >= first_bin && b <= last_bin) use(key_of(v[i], id_in_group(first, i)), z);
            }
        });
    }
    // The logit of a key: what the model gave, penalised.
    float logit(u64 key) const {
        const u32 order = key >> 32;
        return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
    }
    // The key of the first token of all.
    u64 first() const {
        first_of best;
        each([&](int first, const float (&v)[vocab_group]) { best.meet(first, v, most_of(v), vocab); });
        return block_max(best.key());
    }

    u32 weight(u64 key, int b) const { return weight_of(distance(logit(key)), b); }

    void survey(histogram<bins>& h, bool counted) const {
        h.clear();
        each([&](int, const float (&v)[vocab_group]) {
#pragma unroll
            for (int i = 0; i < vocab_group; i++) {
                const float z = distance(v[i]);
                const int b = bin_of(z);
                if (b < bins - 1) h.add(b, weight_of(z, b), counted);
            }
        });
        __syncthreads();
    }
};

// The units of the tokens that have at least min_p of the largest weight; the first one always has.
inline u64 as_probable(const draw& d, const cumulative& c, float min_p) {
    const int bin = bin_of(fmaxf(-logf(min_p), 0.0f));
    if (bin == bins - 1) return c.all;
    u64 weight = 0;
    d.each_of(bin, bin, [&](u64, float z) {
        if (expf(-z) >= min_p) weight += weight_of(z, bin);
    });
    return max(c.before(bin) + units_of(block_sum(weight), bin), units_of(weight_of(0, 0), 0));
}

// Lists the keys from low to high of the bins first_bin to last_bin, in falling order, and returns how many they are:
// where there are more than can be listed, none is.
inline int gather(const draw& d, workspace& w, int first_bin, int last_bin, u64 low, u64 high) {
    __syncthreads();
    if (threadIdx.x == 0) w.number = 0;
    __syncthreads();
    d.each_of(first_bin, last_bin, [&](u64 key, float) {
        if (key < low || key > high) return;
        const u32 at = atomicAdd(&w.number, 1u);
        if (at < listed) w.list[at] = key;
    });
    __syncthreads();
    const int n = w.number;
    if (n > listed) return n;
    int size = 2; // bitonic
    while (size < n) size *= 2;
    for (int i = n + threadIdx.x; i < size; i += vocab_threads) w.list[i] = 0;
    __syncthreads();
    for (int k = 2; k <= size; k *= 2)
        for (int j = k / 2; j > 0; j /= 2) {
            for (int t = threadIdx.x; t < size / 2; t += vocab_threads) {
                const int a = t * 2 - (t & (j - 1)), b = a + j;
                const u64 x = w.list[a], y = w.list[b];
                if ((x < y) == ((a & k) == 0)) w.list[a] = y, w.list[b] = x;
            }
            __syncthreads();
        }
    return n;
}

// Leaves of the keys from low to high of a bin with too many those of one part of them, the one in which the sum exceeds
// the target, and takes from the target what comes before; returns the weight of that.
inline u64 narrow(const draw& d, workspace& w, int bin, bool by_count, u64& target, u64& low, u64& high) {
    u64 least = ~0ull, most = 0;
    d.each_of(bin, bin, [&](u64 key, float) {
        if (key >= low && key <= high) least = min(least, key), most = max(most, key);
    });
    least = ~block_max(~least), most = block_max(most);
    const int shift = max(0, 64 - __clzll(most - least) - 10);
    histogram<parts>& h = w.by_key;
    h.clear();
    d.each_of(bin, bin, [&](u64 key, float z) {
        if (key >= low && key <= high) h.add((int)((most - key) >> shift), weight_of(z, bin), true);
    });
    __syncthreads();
    __shared__ place found;
    u64 all;
    const u64 weight = h.weight(threadIdx.x), count = h.count[threadIdx.x];
    const u64 before = block_before(weight, all), number = block_before(count, all);
    const u64 sum = by_count ? number : before, own = by_count ? count : weight;
    if (sum <= target && target < sum + own) found = {(int)threadIdx.x, before, number};
    __syncthreads();
    high = most - ((u64)found.at << shift);
    low = max(least, high - ((1ull << shift) - 1));
    target -= by_count ? found.count : found.units;
    return found.units;
}

// The first token of a bin, in order, at which the weight (or the number) of it and all before it in the bin exceeds
// target. units become the bin's up to that token.
inline u64 find_in(const draw& d, workspace& w, int bin, bool by_count, u64 target, u64& units) {
    u64 low = 0, high = ~0ull, weight = 0, all;
    if (!by_count) target = weight_below(target, bin);
    int n;
    while ((n = gather(d, w, bin, bin, low, high)) > listed) weight += narrow(d, w, bin, by_count, target, low, high);
    __shared__ u64 found, upto;
    u64 key[2] = {};
    u32 own[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int at = threadIdx.x * 2 + i;
        if (at < n) key[i] = w.list[at], own[i] = d.weight(key[i], bin);
    }
    u64 before = block_before((u64)own[0] + own[1], all);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const u64 at = threadIdx.x * 2 + i;
        if (by_count ? at == target : before <= target && target < before + own[i]) found = key[i], upto = before + own[i];
        before += own[i];
    }
    __syncthreads();
    units = units_of(weight + upto, bin);
    return found;
}

inline u64 ceil_of(double x) {
    const u64 y = (u64)x;
    return (double)y < x ? y + 1 : y;
}

// The key of the token that is drawn; best is the first one's.
inline u64 draw_of(const sample_args& a, i64 row, const draw& d, workspace& w, u64 best) {
    const int top_k = *row_of<int>(a.top_k, row);
    const float top_p = *row_of<float>(a.top_p, row), min_p = *row_of<float>(a.min_p, row), u = *row_of<float>(a.u, row);
    const bool counted = top_k > 0 && top_k < a.vocab;
    d.survey(w.by_distance, counted);
    const cumulative c(w.by_distance, counted);
    u64 kept = c.all, token = best;
    if (kept == 0) return best; // an infinite logit: no probabilities
#pragma unroll 1
    for (int step = 0; step < 3; step++) { // top-k, top-p, then the draw
        u64 target = top_k - 1, within;
        if (step == 0 && !counted) continue;
        if (step == 1) { // kept while the weight before is less than top_p of all: the last one is where it reaches that
            if (!(top_p < 1)) continue;
            target = max(1ull, ceil_of((double)max(top_p, 0.0f) * (double)kept)) - 1;
        }
        if (step == 2) {
            if (min_p > 0) kept = min(kept, as_probable(d, c, min_p));
            target = min(kept - 1, (u64)((double)u * (double)kept));
        }
        const place p = c.find(step == 0, target);
        if (p.at == bins - 1) continue; // top-k ends among tokens of no weight
        token = find_in(d, w, p.at, step == 0, target - (step == 0 ? p.count : p.units), within);
        kept = p.units + within;
    }
    return token;
}

// Reports the first tokens in order of falling logits.
inline void report(const sample_args& a, i64 row, draw d, workspace& w, const row_summary& known) {
    int *id = row_of<int>(a.top_id, row);
    float* logprob = row_of<float>(a.top_logprob, row);
    d.survey(w.by_distance, true);
    const cumulative c(w.by_distance, true);
    const place p = c.find(true, a.top - 1);
    if (p.at < bins - 1 && p.count + w.by_distance.count[p.at] <= listed) {
        gather(d, w, 0, p.at, 0, ~0ull);
        for (int i = threadIdx.x; i < a.top; i += vocab_threads) {
            id[i] = id_of(w.list[i]);
            logprob[i] = (float)((double)d.logits[id[i]] - known.log_sum);
        }
        return;
    }
    u64 last = ~0ull; // tokens of hardly any probability, or very many: one after the other
    for (int i = 0; i < a.top; i++) {
        u64 next = 0;
        d.each([&](int first, const float (&v)[vocab_group]) {
#pragma unroll
            for (int j = 0; j < vocab_group; j++) {
                const int at = id_in_group(first, j);
                const u64 key = key_of(v[j], at);
                if (at < d.vocab && key < last) next = max(next, key);
            }
        });
        last = block_max(next);
        if (threadIdx.x > 0) continue;
        id[i] = id_of(last);
        logprob[i] = (float)((double)d.logits[id[i]] - known.log_sum);
    }
}

extern "C" __global__ void __launch_bounds__(1024) sample(const sample_args a) {
    after_earlier();
    extern __shared__ penalty repeated[];
    __shared__ workspace w;
    const i64 row = blockIdx.x;
    draw d = {};
    d.logits = row_of<float>(a.logits, row);
    d.vocab = a.vocab;
    d.inverse = 1;
    // The sum is over all columns: what is beyond the vocabulary is never chosen, but it counts.
    const row_summary known = summarise(d.logits, a.vocab, a.columns);
    u64 token = known.best;
    d.top = d.logit(token);
    if (a.top > 0) report(a, row, d, w, known);
    const float factor = *row_of<float>(a.penalty, row);
    if (factor != 1 && a.seen_start != nullptr) {
        if (threadIdx.x == 0) repeated->lower = 1 / (double)factor, repeated->raise = factor;
        for (int i = threadIdx.x; i < (a.vocab + 31) / 32; i += vocab_threads) repeated->seen()[i] = 0;
        __syncthreads();
        for (int i = a.seen_start[row] + threadIdx.x; i < a.seen_start[row + 1]; i += vocab_threads) {
            const int id = a.seen[i];
            if (id < 0 || id >= a.vocab) note_fault(a.fault, a.op, id, i);
            else atomicOr(&repeated->seen()[id / 32], 1u << (id % 32));
        }
        __syncthreads();
        d.repeated = repeated;
        token = d.first();
    }
    if (a.banned_ids > 0 && *row_of<int>(a.ban, row) != 0) {
        __syncthreads(); // all have read what is overwritten
        for (int i = threadIdx.x; i < a.banned_ids; i += vocab_threads) {
            const int id = a.banned[i];
            if (id < 0 || id >= a.vocab) note_fault(a.fault, a.op, id, i);
            else row_of<float>(a.logits, row)[id] = -infinity;
        }
        __syncthreads();
        token = d.first();
    }
    d.top = d.logit(token);
    const float temperature = *row_of<float>(a.temperature, row);
    if (temperature > 0) {
        d.inverse = fminf(1 / temperature, 3.4028235e38f); // 0 times it is 0
        token = draw_of(a, row, d, w, token);
    }
    if (threadIdx.x > 0) return;
    const int id = id_of(token);
    *row_of<int>(a.token, row) = id;
    *row_of<float>(a.logprob, row) = (float)((double)d.logits[id] - known.log_sum);
}
