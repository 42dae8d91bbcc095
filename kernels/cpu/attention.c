/* Paged attention of some tokens of one sequence over the keys and values of one KV head.
 *
 * Shapes  q, out [tokens, heads·dim]; the cache as in cache.go. A row is one query head of one token.
 * Tiles   64 positions of K and V, from position 0 on, by up to ROWS rows. K of 16 positions lies side by side, so that
 *         a register holds a dimension of them and no sum crosses lanes. Tiles that are not float32 in panels are
 *         unpacked into scratch first, once for all rows.
 * Order   of a row: tiles ascending from the one of its first position; a score sums the dimensions ascending, fused;
 *         a tile's largest score and sum of exponentials cross lanes by halves; out is rescaled, then adds the values
 *         of the tile's positions, ascending, fused. It depends on the row's position (and window) alone: rows of a
 *         tile share loads, never a sum. What a row does not see is skipped, not multiplied by 0.
 * Speed   K and V are read once for all rows of an item. Checked by optest.Attention against attention.go. */
#if defined(LEVEL)
#include "vector.h"

enum {
    TILE = 64,                           /* positions */
    PANEL = CPU_PANEL,                   /* positions side by side in K */
    PANELS = TILE / PANEL,               /* of a tile */
    VECTORS = PANEL / LANES,             /* of a panel */
    ROWS = LANES == 16 ? 8 : 4,          /* rows of a register block */
    WIDE = LANES == 16 ? 2 : VECTORS,    /* vectors of scores of ROWS rows at once, in one or more panels */
    MOST = CPU_ATTENTION_ROWS            /* rows of an item */
};

/* One tile: its panels of K [dim][16] and of V [16][dim]. */
typedef struct tile {
    const float *k[PANELS], *v[PANELS];
} tile;

/* One row: where it is, and its softmax so far. */
typedef struct row {
    float *out;
    int64_t from, to;   /* positions */
    float top, sum;     /* largest score, and the sum of exp(score - top) */
} row;

INLINE int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

/* dst = src, n bfloat16, while the same of a later panel comes nearer. */
INLINE void unpack(float *dst, const uint16_t *src, int64_t n, const uint16_t *ahead) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __builtin_prefetch(ahead + i, 0, 2);
#pragma GCC unroll 8
        for (int u = 0; u < 32; u += LANES) vec_store(dst + i + u, vec_bf16(src + i + u));
    }
    for (; i < n; i++) dst[i] = of_bits((uint32_t)src[i] << 16);
}

/* Unpacks panel p of the tile at position base; [from, to) is what any row sees. */
INLINE void open_panel(const attention_args *a, tile *t, int p, int64_t base, const int32_t *blocks, int64_t head,
                       int64_t from, int64_t to, float *scratch) {
    const int64_t dim = a->dim, at = base + p * PANEL, size = a->block_tokens, head_size = size * dim;
    float *const k = scratch + (int64_t)p * 2 * PANEL * dim, *const v = k + PANEL * dim;
    t->k[p] = k;
    t->v[p] = v;
    if (at >= to || at + PANEL <= from) return;
    if (a->width == PANEL) { /* a panel lies in one block */
        const int64_t base_k = 2 * head_size * (blocks[at / size] * a->kv_heads + head) + at % size * dim;
        if (a->type == CPU_F32) {
            t->k[p] = (const float *)a->data + base_k;
            t->v[p] = t->k[p] + head_size;
            return;
        }
        const int64_t next = at + TILE < to ? at + TILE : at;
        const int64_t next_k = 2 * head_size * (blocks[next / size] * a->kv_heads + head) + next % size * dim;
        const uint16_t *const data = a->data;
        unpack(k, data + base_k, PANEL * dim, data + next_k);
        unpack(v, data + base_k + head_size, PANEL * dim, data + next_k + head_size);
        return;
    }
    for (int64_t j = clamp(from - at, 0, PANEL); j < clamp(to - at, 0, PANEL); j++) {
        const int64_t base_k = 2 * head_size * (blocks[(at + j) / size] * a->kv_heads + head) + (at + j) % size * dim;
        for (int64_t d = 0; d < dim; d++) {
            if (a->type == CPU_F32) {
                k[d * PANEL + j] = ((const float *)a->data)[base_k + d];
                v[j * dim + d] = ((const float *)a->data)[base_k + head_size + d];
            } else {
                k[d * PANEL + j] = of_bits((uint32_t)((const uint16_t *)a->data)[base_k + d] << 16);
                v[j * dim + d] = of_bits((uint32_t)((const uint16_t *)a->data)[base_k + head_size + d] << 16);
            }
        }
    }
}

/* score[r][64] = scale · q[d][rows] · K for the panels [first, last) of a tile. */
INLINE void scores(float (*score)[TILE], const float *q, const tile *t, const int rows, int64_t dim, float scale, int first, int last) {
    const int wide = rows == 1 ? PANELS * VECTORS : rows == ROWS ? WIDE : 2 * WIDE, step = wide / VECTORS ? wide / VECTORS : 1;
    for (int p = first; p < last; p += step) {
        vec s[ROWS][PANELS * VECTORS];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
            for (int u = 0; u < step * VECTORS; u++) s[r][u] = vec_zero();
        }
        const float *k[PANELS];
#pragma GCC unroll 16
        for (int i = 0; i < step; i++) k[i] = t->k[p + i < last ? p + i : last - 1];
        for (int64_t d = 0; d < dim; d++) {
            vec v[PANELS * VECTORS];
#pragma GCC unroll 16
            for (int u = 0; u < step * VECTORS; u++) v[u] = vec_load(k[u / VECTORS] + d * PANEL + u % VECTORS * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const vec x = vec_set(q[d * rows + r]);
#pragma GCC unroll 16
                for (int u = 0; u < step * VECTORS; u++) s[r][u] = vec_fma(x, v[u], s[r][u]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
            for (int u = 0; u < step * VECTORS; u++) {
                if (p + u / VECTORS < last) vec_store(score[r] + p * PANEL + u * LANES, s[r][u] * vec_set(scale));
            }
        }
    }
}

/* Turns the scores of positions [from, to) of a tile into exponentials, 0 elsewhere; returns what out is to be
 * multiplied by. */
INLINE float exponentials(float *score, row *w, int from, int to) {
    vec top = vec_set(w->top);
    const vec low = vec_set(-INFINITY);
    vec s[TILE / LANES];
#pragma GCC unroll 16
    for (int u = 0; u < TILE / LANES; u++) {
        const int at = u * LANES, left = (int)clamp(to - at, 0, LANES), skip = (int)clamp(from - at, 0, LANES);
        s[u] = low;
        if (left > skip) {
            s[u] = vec_load(score + at);
            if (left < LANES) s[u] = vec_select((ivec)vec_first(vec_set(1), left) != 0, s[u], low);
            if (skip > 0) s[u] = vec_select((ivec)vec_first(vec_set(1), skip) != 0, low, s[u]);
        }
        top = vec_max(s[u], top);
    }
    const float new_top = vec_largest(top), by = exp_of(w->top - new_top);
    vec sum = vec_zero();
#pragma GCC unroll 16
    for (int u = 0; u < TILE / LANES; u++) {
        const vec e = vec_exp(s[u] - vec_set(new_top));
        vec_store(score + u * LANES, e);
        sum = sum + e;
    }
    w->sum = w->sum * by + vec_sum(sum);
    w->top = new_top;
    return by;
}

/* out[r] = out[r]·by[r] + Σ_j e[r][j]·V[j] for positions [from, to) of a tile, and cols vectors of dim from d on. */
INLINE void add_columns(row *w, const float (*e)[TILE], const float *by, const tile *t, const int rows, const int cols,
                        int64_t dim, int64_t d, int from, int to) {
    vec s[ROWS][8];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
        for (int u = 0; u < cols; u++) s[r][u] = vec_load(w[r].out + d + u * LANES) * vec_set(by[r]);
    }
    for (int j = from; j < to; j++) {
        const float *const v = t->v[j / PANEL] + j % PANEL * dim + d;
        vec x[8];
#pragma GCC unroll 16
        for (int u = 0; u < cols; u++) x[u] = vec_load(v + u * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const vec p = vec_set(e[r][j]);
#pragma GCC unroll 16
            for (int u = 0; u < cols; u++) s[r][u] = vec_fma(p, x[u], s[r][u]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
        for (int u = 0; u < cols; u++) vec_store(w[r].out + d + u * LANES, s[r][u]);
    }
}

INLINE void add_values(row *w, const float (*e)[TILE], const float *by, const tile *t, const int rows, int64_t dim, int from, int to) {
    const int most = rows == ROWS ? 2 : rows == 1 ? 8 : 4; /* so many chains of sums that none waits for itself */
    int64_t d = 0;
    if (most == 8) {
        for (; d + 8 * LANES <= dim; d += 8 * LANES) add_columns(w, e, by, t, rows, 8, dim, d, from, to);
    }
    if (most >= 4) {
        for (; d + 4 * LANES <= dim; d += 4 * LANES) add_columns(w, e, by, t, rows, 4, dim, d, from, to);
    }
    for (; d + 2 * LANES <= dim; d += 2 * LANES) add_columns(w, e, by, t, rows, 2, dim, d, from, to);
    for (; d + LANES <= dim; d += LANES) add_columns(w, e, by, t, rows, 1, dim, d, from, to);
    if (d == dim) return;
    for (int r = 0; r < rows; r++) {
        const int64_t left = dim - d;
        vec s = vec_load_first(w[r].out + d, left) * vec_set(by[r]);
        for (int j = from; j < to; j++) {
            s = vec_fma(vec_set(e[r][j]), vec_load_first(t->v[j / PANEL] + j % PANEL * dim + d, left), s);
        }
        vec_store_first(w[r].out + d, s, left);
    }
}

/* One tile by rows rows of q [dim][rows]. */
INLINE void attend_block(const attention_args *a, row *w, const float *q, const tile *t, const int rows, int64_t base) {
    float score[ROWS][TILE] __attribute__((aligned(64)));
    float by[ROWS];
    int from[ROWS], to[ROWS], first = TILE, last = 0, all_from = 0, all_to = TILE;
    for (int r = 0; r < rows; r++) {
        from[r] = (int)clamp(w[r].from - base, 0, TILE);
        to[r] = (int)clamp(w[r].to - base, from[r], TILE);
        if (from[r] == to[r]) to[r] = from[r] = 0; /* sees nothing of it */
        if (from[r] < to[r] && from[r] < first) first = from[r];
        if (to[r] > last) last = to[r];
        if (from[r] > all_from) all_from = from[r];
        if (to[r] < all_to) all_to = to[r];
    }
    if (first >= last) return;
    scores(score, q, t, rows, a->dim, a->scale, first / PANEL, (last + PANEL - 1) / PANEL);
    for (int r = 0; r < rows; r++) by[r] = from[r] < to[r] ? exponentials(score[r], &w[r], from[r], to[r]) : 1;
    if (all_from >= all_to) all_from = all_to = TILE; /* nothing that all see */
    if (all_from == TILE) {
        for (int r = 0; r < rows; r++) add_values(w + r, (const float(*)[TILE])score[r], by + r, t, 1, a->dim, from[r], to[r]);
        return;
    }
    const float one = 1;
    int before = 0;
    for (int r = 0; r < rows; r++) before |= from[r] < all_from;
    if (before) { /* then the first part rescales, all rows alike */
        for (int r = 0; r < rows; r++) add_values(w + r, (const float(*)[TILE])score[r], by + r, t, 1, a->dim, from[r], all_from);
    }
    float rest[ROWS];
    for (int r = 0; r < rows; r++) rest[r] = before ? 1 : by[r];
    add_values(w, (const float(*)[TILE])score, rest, t, rows, a->dim, all_from, all_to);
    for (int r = 0; r < rows; r++) {
        if (to[r] > all_to) add_values(w + r, (const float(*)[TILE])score[r], &one, t, 1, a->dim, all_to, to[r]);
    }
}

/* q[d][rows] of rows that begin at each w's place in q. */
INLINE void pack_rows(float *packed, const float *const *q, int rows, int64_t dim) {
    for (int r = 0; r < rows; r++) {
        for (int64_t d = 0; d < dim; d++) packed[d * rows + r] = q[r][d];
    }
}

/* How many of left rows make a block: ROWS, a half, a quarter …, 1. */
INLINE int block_rows(int left) {
    int n = ROWS;
    while (n > left) n /= 2;
    return n;
}

/* The rows of one item that fit into MOST. */
static void attend_rows(const attention_args *a, row *w, const float *const *q, int rows, const int32_t *blocks, int64_t head, float *scratch) {
    const int64_t dim = a->dim;
    float *const packed = scratch + 2 * TILE * dim;
    int64_t from = INT64_MAX, to = 0;
    for (int r = 0; r < rows; r++) {
        if (w[r].from < w[r].to && w[r].from < from) from = w[r].from;
        if (w[r].to > to) to = w[r].to;
        memset(w[r].out, 0, (size_t)dim * sizeof *w[r].out);
    }
    for (int r = 0; r < rows; r += block_rows(rows - r)) pack_rows(packed + r * dim, q + r, block_rows(rows - r), dim);
    for (int64_t base = from < to ? from / TILE * TILE : to; base < to; base += TILE) {
        tile t;
        for (int p = 0; p < PANELS; p++) open_panel(a, &t, p, base, blocks, head, from, to, scratch);
        for (int r = 0; r < rows;) {
            switch (block_rows(rows - r)) {
#if defined(LEVEL_AVX512)
            case 8:
                attend_block(a, w + r, packed + r * dim, &t, 8, base);
                r += 8;
                break;
#endif
            case 4:
                attend_block(a, w + r, packed + r * dim, &t, 4, base);
                r += 4;
                break;
            case 2:
                attend_block(a, w + r, packed + r * dim, &t, 2, base);
                r += 2;
                break;
            default:
                attend_block(a, w + r, packed + r * dim, &t, 1, base);
                r += 1;
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        const float by = w[r].sum == 0 ? 0 : 1 / w[r].sum;
        for (int64_t d = 0; d < dim; d++) w[r].out[d] *= by;
    }
}

static void attend(const attention_args *a, const attention_item *it, float *scratch) {
    row w[MOST];
    const float *q[MOST];
    const int32_t *const blocks = a->blocks + it->seq * a->blocks_stride;
    int rows = 0;
    for (int64_t t = it->from; t < it->to; t++) {
        const int64_t position = a->position[t], to = a->context ? a->context[it->seq] : position + 1;
        const int64_t from = position + 1 > a->window ? position + 1 - a->window : 0;
        for (int64_t h = it->head * a->group; h < (it->head + 1) * a->group; h++) {
            q[rows] = a->q + t * a->q_stride + h * a->dim;
            w[rows++] = (row){a->out + t * a->out_stride + h * a->dim, from, to, -INFINITY, 0};
            if (rows == MOST) {
                attend_rows(a, w, q, rows, blocks, it->head, scratch);
                rows = 0;
            }
        }
    }
    attend_rows(a, w, q, rows, blocks, it->head, scratch);
}

#endif
