/* The k experts of the largest logits of each token, ties to the lower index, and their weights.
 * Shapes  logits [tokens, experts], expert, weight [tokens, k]; key: room for experts rounded up to 16, where the gate is
 *         limited twice that and the groups.
 * Order   the sum of the softmax over LANES partial sums, expert e in sum e mod LANES: by experts alone.
 * A logit's key is an int32 that ascends with it, a NaN's below all, a taken one's below that: each of the k passes looks
 * for the largest key. Checked by optest.Gate against gate.go. */
#if defined(LEVEL)
#include "vector.h"

enum { TAKEN = INT32_MIN, NOT_A_NUMBER };

INLINE ivec keys_of(vec x) {
    const ivec number = x == x, b = (ivec)(x + 0.0f); /* -0 becomes 0 */
    const ivec key = b ^ ((b >> 31) & 0x7fffffff);
    return (key & number) | (~number & NOT_A_NUMBER);
}

/* Fills key, a multiple of LANES of them, from n logits. */
INLINE void fill_keys(int32_t *key, const float *logits, int64_t n) {
    for (int64_t e = 0; e < n; e += LANES) {
        const int64_t left = n - e < LANES ? n - e : LANES;
        const ivec k = keys_of(vec_load_first(logits + e, left));
        memcpy(key + e, &k, sizeof k);
    }
    for (int64_t e = n; e % LANES; e++) key[e] = TAKEN;
}

/* The first index of the largest key, which becomes taken. */
INLINE int64_t take_largest(int32_t *key, int64_t n) {
    ivec top = (ivec){0} + TAKEN, v;
    for (int64_t e = 0; e < n; e += LANES) {
        memcpy(&v, key + e, sizeof v);
        top = ivec_max(top, v);
    }
    const int32_t best = ivec_largest(top);
    for (int64_t e = 0;; e += LANES) {
        memcpy(&v, key + e, sizeof v);
        const int lane = ivec_find(v, best);
        if (lane >= 0) {
            key[e + lane] = TAKEN;
            return e + lane;
        }
    }
}

INLINE float sigmoid_of(float x) { /* by e^-|x|, which is at most 1 */
    const float e = exp_of(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}

/* What the experts of a limited gate are chosen by, and keys of it; those of groups that are not among the best are taken. */
static __attribute__((noinline)) void fill_limited(const gate_args *a, int32_t *key, float *by, float *sums, const float *logits) {
    const int64_t n = a->experts, each = n / a->groups;
    for (int64_t e = 0; e < n; e++) by[e] = a->sigmoid ? sigmoid_of(logits[e]) + (a->bias ? a->bias[e] : 0) : logits[e];
    fill_keys(key, by, n);
    if (a->groups == 1) return;
    for (int64_t g = 0; g < a->groups; g++) { /* keys ascend with what they are of, a NaN's below all */
        int64_t first = g * each, second = -1;
        for (int64_t e = first + 1; e < (g + 1) * each; e++) {
            if (key[e] > key[first]) second = first, first = e;
            else if (second < 0 || key[e] > key[second]) second = e;
        }
        sums[g] = a->group_best == 2 ? by[first] + by[second] : by[first];
    }
    for (int64_t g = 0; g < a->groups; g++) {
        int64_t before = 0;
        for (int64_t h = 0; h < a->groups; h++) {
            const int nan = sums[g] != sums[g];
            before += sums[h] > sums[g] || (nan && sums[h] == sums[h]) || (h < g && (sums[h] == sums[g] || (nan && sums[h] != sums[h])));
        }
        for (int64_t e = g * each; before >= a->top_groups && e < (g + 1) * each; e++) key[e] = TAKEN;
    }
}

/* Σ exp(x - top), while as much at ahead, or nothing, comes nearer. */
INLINE float sum_exp(const float *x, float top, int64_t n, const float *ahead) {
    vec s = vec_zero();
    int64_t e = 0;
    for (; e + LANES <= n; e += LANES) {
        __builtin_prefetch(ahead ? ahead + e : x + e, 0, 2);
        s = s + vec_exp(vec_load(x + e) - vec_set(top));
    }
    if (e < n) s = s + vec_first(vec_exp(vec_load_first(x + e, n - e) - vec_set(top)), n - e);
    return vec_sum(s);
}

static void gate_rows(const gate_args *a, int64_t from, int64_t to, int32_t *key) {
    const int64_t n = a->experts;
    float *const by = (float *)(key + (n + 15) / 16 * 16);
    for (int64_t t = from; t < to; t++) {
        const float *const logits = a->logits + t * a->logits_stride;
        int32_t *const expert = a->expert + t * a->expert_stride;
        float *const weight = a->weight + t * a->weight_stride;
        if (a->limited) fill_limited(a, key, by, by + (n + 15) / 16 * 16, logits);
        else fill_keys(key, logits, n);
        for (int64_t c = 0; c < a->k; c++) expert[c] = (int32_t)take_largest(key, n);
        const float top = logits[expert[0]]; /* a softmax's; limited or not, the largest of all comes first */
        const float divisor = a->sigmoid ? 1 : sum_exp(logits, top, n, NULL);
        float sum = 0;
        for (int64_t c = 0; c < a->k; c++) {
            const float x = logits[expert[c]];
            weight[c] = a->sigmoid ? sigmoid_of(x) : exp_of(x - top) / divisor;
            sum += weight[c];
        }
        const float least = 0x1p-23f; /* as leastSum of gate.go */
        const float by = a->renormalise ? (sum > least || sum != sum ? sum : least) : 1;
        for (int64_t c = 0; c < a->k; c++) weight[c] = weight[c] / by * a->scale;
    }
}

#endif
