/* y[t] = Σ_c weight[t, c]·out[place[t, c]], and PR-MoE's y = moe·c₀ + mlp·c₁ with c = softmax(coef), or a shared expert's with
 * c = (1, sigmoid(coef)).
 * Shapes  y [tokens, cols], out [slots, cols], weight, place [tokens, k] (place -1: dropped), coef [tokens, 2], shared: 1.
 * Order   c ascending from 0, fused; elements are independent, so that tails need no care.
 * Memory  k+1 rows a token; gathers. Checked by optest.Combine and optest.Mix against combine.go. */
#if defined(LEVEL)
#include "vector.h"

enum { COLUMNS = 4 }; /* vectors of a row that are summed at once */

static void combine_rows(const combine_args *a, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) {
        const float *const weight = a->weight + t * a->weight_stride;
        const int32_t *const place = a->place + t * a->k;
        float *const y = a->y + t * a->y_stride;
        int64_t i = 0;
        for (; i + COLUMNS * LANES <= a->cols; i += COLUMNS * LANES) {
            vec s[COLUMNS] = {{0}, {0}, {0}, {0}};
            for (int64_t c = 0; c < a->k; c++) {
                if (place[c] < 0) continue;
                const vec w = vec_set(weight[c]);
                const float *const x = a->out + place[c] * a->out_stride + i;
#pragma GCC unroll 4
                for (int u = 0; u < COLUMNS; u++) s[u] = vec_fma(w, vec_load(x + u * LANES), s[u]);
            }
#pragma GCC unroll 4
            for (int u = 0; u < COLUMNS; u++) vec_store(y + i + u * LANES, s[u]);
        }
        for (; i < a->cols; i += LANES) {
            const int64_t left = a->cols - i < LANES ? a->cols - i : LANES;
            vec s = vec_zero();
            for (int64_t c = 0; c < a->k; c++) {
                if (place[c] < 0) continue;
                s = vec_fma(vec_set(weight[c]), vec_load_first(a->out + place[c] * a->out_stride + i, left), s);
            }
            vec_store_first(y + i, s, left);
        }
    }
}

static void mix_rows(const mix_args *a, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) {
        const float *const coef = a->coef + t * a->coef_stride;
        const float *const moe = a->moe + t * a->moe_stride, *const mlp = a->mlp + t * a->mlp_stride;
        float *const y = a->y + t * a->y_stride;
        const float first = a->shared ? 0 : coef[0], second = a->shared ? coef[0] : coef[1]; /* sigmoid(x): softmax of 0 and x */
        const float e = exp_of(-fabsf(second - first)), large = 1 / (1 + e), small = e / (1 + e);
        const float c0 = a->shared ? 1 : second > first ? small : large, c1 = second > first ? large : small;
        for (int64_t i = 0; i < a->cols; i++) y[i] = moe[i] * c0 + mlp[i] * c1;
    }
}

static void add_rows(const add_args *a, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) {
        float *const y = a->y + t * a->y_stride;
        const float *const x = a->x + t * a->x_stride;
        for (int64_t i = 0; i < a->cols; i++) y[i] += x[i];
    }
}

#endif
