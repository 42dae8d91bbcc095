/* Rotates the first values of each head of q and k, in place, and puts k and v into the cache.
 * Shapes  q [tokens, heads·dim], k, v [tokens, kv_heads·dim], cos, sin [positions, rotated/2]; the cache as in cache.go. No v
 *         where keys hold the values.
 * Order   (a, b) becomes (a·cos − b·sin, b·cos + a·sin), each product rounded: no sums, tails need no care.
 * Memory  q, k once each way, v once. K of a token in a cache of panels is a few bytes of each line of its panel, so those
 *         of the next token are fetched meanwhile. Checked by optest.Store against rope.go. */
#if defined(LEVEL)
#include "vector.h"

INLINE void rotate_halves(float *restrict x, const float *restrict cos, const float *restrict sin, int64_t half) {
    float *restrict y = x + half;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = y[i];
        x[i] = a * cos[i] - b * sin[i];
        y[i] = b * cos[i] + a * sin[i];
    }
}

INLINE void rotate_pairs(float *restrict x, const float *restrict cos, const float *restrict sin, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

INLINE void rotate_row(const store_args *a, float *row, int64_t cols, int64_t t) {
    const float *const cos = a->cos + a->position[t] * a->cos_stride, *const sin = a->sin + a->position[t] * a->sin_stride;
    for (int64_t h = 0; h < cols; h += a->dim) {
        if (a->interleaved) {
            rotate_pairs(row + h, cos, sin, a->rotated / 2);
        } else {
            rotate_halves(row + h, cos, sin, a->rotated / 2);
        }
    }
}

/* Where K of a slot begins, and its panel and V, in elements. */
INLINE int64_t find_slot(const store_args *a, int64_t slot, int64_t head, int64_t *panel, int64_t *v) {
    const int64_t head_size = a->block_tokens * a->dim, block = slot / a->block_tokens, place = slot % a->block_tokens;
    const int64_t base = (a->v ? 2 : 1) * head_size * (block * a->kv_heads + head);
    *panel = base + place / a->width * a->width * a->dim;
    *v = base + head_size + place * a->dim;
    return *panel + place % a->width;
}

/* Fetches what a token's K and V go to into L2, unless its panel is that of the token before. */
INLINE void fetch_slot(const store_args *a, int64_t slot, int64_t before) {
    if (slot < 0 || (before >= 0 && slot / a->width == before / a->width)) return;
    const int64_t bytes = a->type == CPU_BF16 ? 2 : 4;
    for (int64_t h = 0; h < a->kv_heads; h++) {
        int64_t panel, v;
        find_slot(a, slot, h, &panel, &v);
        const char *const k = (const char *)a->data + panel * bytes, *const to_v = (const char *)a->data + v * bytes;
        for (int64_t i = 0; i < a->width * a->dim * bytes; i += 64) __builtin_prefetch(k + i, 0, 2);
        for (int64_t i = 0; a->v && i < a->dim * bytes; i += 64) __builtin_prefetch(to_v + i, 0, 2);
    }
}

static void store_rows(const store_args *a, int64_t from, int64_t to) {
    const int64_t dim = a->dim, w = a->width;
    for (int64_t t = from; t < to; t++) {
        if (t + 1 < to) fetch_slot(a, a->slot[t + 1], a->slot[t]);
        float *const q = a->q + t * a->q_stride, *const k = a->k + t * a->k_stride;
        const float *const v = a->v ? a->v + t * a->v_stride : NULL;
        if (a->rotated) {
            rotate_row(a, q, a->q_cols, t);
            rotate_row(a, k, a->kv_heads * dim, t);
        }
        if (a->slot[t] < 0) continue;
        for (int64_t h = 0; h < a->kv_heads; h++) {
            int64_t panel, at_v;
            const int64_t at_k = find_slot(a, a->slot[t], h, &panel, &at_v);
            const float *const kh = k + h * dim, *const vh = v ? v + h * dim : NULL;
            if (a->type == CPU_BF16) {
                uint16_t *const data = a->data;
                for (int64_t d = 0; d < dim; d++) data[at_k + d * w] = to_bf16(kh[d]);
                if (vh) narrow(data + at_v, vh, CPU_BF16, dim);
            } else {
                float *const data = a->data;
                for (int64_t d = 0; d < dim; d++) data[at_k + d * w] = kh[d];
                if (vh) memcpy(data + at_v, vh, (size_t)dim * sizeof *vh);
            }
        }
    }
}

#endif
