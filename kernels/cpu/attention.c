/* Paged attention of some tokens of one sequence over the keys and values of one KV head.
 *
 * Shapes  q [tokens, heads·dim], out [tokens, heads·values]; the cache as in cache.go. A row is one query head of one token.
 * Tiles   64 positions of K and V, from position 0 on, by up to ROWS rows. K of 16 positions lies side by side, so that
 *         a register holds a dimension of them and no sum crosses lanes. Panels are read where they lie; but bfloat16 for
 *         more rows than one block of registers has, and what is not in panels, is unpacked into scratch first, once for
 *         all rows. Meanwhile the next tile is fetched, after an item's last one that of the next item.
 * Order   of a row: tiles ascending from the one of its first position; a score sums the dimensions ascending, fused;
 *         a tile's largest score and sum of exponentials cross lanes by halves; out is rescaled, then adds the values
 *         of the tile's positions, ascending, fused. It depends on the row's position (and window) alone: rows of a
 *         tile share loads, never a sum. What a row does not see is skipped, not multiplied by 0. ALiBi adds slope·(position −
 *         the row's own) to a scaled score. A sink joins a row's sum of exponentials last.
 * Speed   K and V are read once for all rows of an item. Checked by optest.Attention against attention.go. */
#if defined(LEVEL)
#include "vector.h"
#include "attention_tile.h"

enum {
    VECTORS = PANEL / LANES,             /* of a panel */
    ROWS = LANES == 16 ? 8 : 4,          /* rows of a register block */
    WIDE = LANES == 16 ? 2 : VECTORS,    /* vectors of scores of ROWS rows at once, in one or more panels */
    MOST = CPU_ATTENTION_ROWS            /* rows of an item */
};

/* One row: where it is, and its softmax so far. */
typedef struct row {
    float *out;
    int64_t from, to;   /* positions */
    float top, sum;     /* largest score, and the sum of exp(score - top) */
    int64_t at;         /* its own position */
    float slope;        /* of ALiBi, 0: none */
    float sink;         /* of its head, where heads have one */
} row;

/* score[r][64] = scale · q[d][rows] · K for the panels [first, last) of a tile. */
INLINE void scores(float (*score)[TILE], const float *q, const tile *t, fetcher *ahead, const int rows, const int halves,
                   int64_t dim, float scale, int first, int last) {
    const int wide = rows == 1 ? PANELS * VECTORS : rows == ROWS ? WIDE : 2 * WIDE, step = wide / VECTORS ? wide / VECTORS : 1;
    for (int p = first; p < last; p += step) {
        vec s[ROWS][PANELS * VECTORS];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
            for (int u = 0; u < step * VECTORS; u++) s[r][u] = vec_zero();
        }
        const void *k[PANELS];
#pragma GCC unroll 16
        for (int i = 0; i < step; i++) k[i] = t->k[p + i < last ? p + i : last - 1];
        for (int64_t d = 0; d < dim; d++) {
            vec v[PANELS * VECTORS];
#pragma GCC unroll 16
            for (int u = 0; u < step * VECTORS; u++) v[u] = vec_of(halves, k[u / VECTORS], d * PANEL + u % VECTORS * LANES);
            fetch(ahead, step * PANEL * (halves ? 2 : 4));
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

/* Takes off the scores of panels [first, last) of a tile at position base what ALiBi takes off for their distance. */
INLINE void lean(float *score, const row *w, int64_t base, int first, int last) {
    for (int i = first * PANEL; i < last * PANEL; i++) score[i] += w->slope * (float)(base + i - w->at);
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
INLINE void add_columns(row *w, const float (*e)[TILE], const float *by, const tile *t, fetcher *ahead, const int rows,
                        const int halves, const int cols, int64_t dim, int64_t d, int from, int to) {
    vec s[ROWS][8];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
        for (int u = 0; u < cols; u++) s[r][u] = vec_load(w[r].out + d + u * LANES) * vec_set(by[r]);
    }
    for (int j = from; j < to;) {
        const int end = to < (j | (PANEL - 1)) + 1 ? to : (j | (PANEL - 1)) + 1; /* of the panel */
        const void *const panel = t->v[j / PANEL];
        for (int64_t at = j % PANEL * dim + d; j < end; j++, at += dim) {
            vec x[8];
#pragma GCC unroll 16
            for (int u = 0; u < cols; u++) x[u] = vec_of(halves, panel, at + u * LANES);
            fetch(ahead, cols * LANES * (halves ? 2 : 4));
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const vec p = vec_set(e[r][j]);
#pragma GCC unroll 16
                for (int u = 0; u < cols; u++) s[r][u] = vec_fma(p, x[u], s[r][u]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 16
        for (int u = 0; u < cols; u++) vec_store(w[r].out + d + u * LANES, s[r][u]);
    }
}

INLINE void add_values(row *w, const float (*e)[TILE], const float *by, const tile *t, fetcher *ahead, const int rows,
                       const int halves, int64_t dim, int from, int to) {
    const int most = rows == ROWS ? 2 : rows == 1 ? 8 : 4; /* so many chains of sums that none waits for itself */
    int64_t d = 0;
    if (most == 8) {
        for (; d + 8 * LANES <= dim; d += 8 * LANES) add_columns(w, e, by, t, ahead, rows, halves, 8, dim, d, from, to);
    }
    if (most >= 4) {
        for (; d + 4 * LANES <= dim; d += 4 * LANES) add_columns(w, e, by, t, ahead, rows, halves, 4, dim, d, from, to);
    }
    for (; d + 2 * LANES <= dim; d += 2 * LANES) add_columns(w, e, by, t, ahead, rows, halves, 2, dim, d, from, to);
    for (; d + LANES <= dim; d += LANES) add_columns(w, e, by, t, ahead, rows, halves, 1, dim, d, from, to);
    if (d == dim) return;
    for (int r = 0; r < rows; r++) {
        const int64_t left = dim - d;
        vec s = vec_load_first(w[r].out + d, left) * vec_set(by[r]);
        for (int j = from; j < to; j++) {
            s = vec_fma(vec_set(e[r][j]), vec_of_first(halves, t->v[j / PANEL], j % PANEL * dim + d, left), s);
        }
        vec_store_first(w[r].out + d, s, left);
    }
}

/* add_values for a part of the positions that one row sees and others do not. */
static __attribute__((noinline)) void add_more(row *w, const float *e, float by, const tile *t, fetcher *ahead, int halves, int64_t dim,
                                               int from, int to) {
    if (halves) add_values(w, (const float(*)[TILE])e, &by, t, ahead, 1, 1, dim, from, to);
    else add_values(w, (const float(*)[TILE])e, &by, t, ahead, 1, 0, dim, from, to);
}

/* One tile by rows rows of q [dim][rows]. */
INLINE void attend_block(const attention_args *a, row *w, const float *q, const tile *t, fetcher *ahead, const int rows,
                         const int halves, int64_t base) {
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
    scores(score, q, t, ahead, rows, halves, a->dim, a->scale, first / PANEL, (last + PANEL - 1) / PANEL);
    for (int r = 0; r < rows && a->slopes; r++) lean(score[r], &w[r], base, first / PANEL, (last + PANEL - 1) / PANEL);
    for (int r = 0; r < rows; r++) by[r] = from[r] < to[r] ? exponentials(score[r], &w[r], from[r], to[r]) : 1;
    if (all_from >= all_to) { /* nothing that all see */
        for (int r = 0; r < rows; r++) add_more(w + r, score[r], by[r], t, ahead, halves, a->values, from[r], to[r]);
        return;
    }
    int before = 0;
    for (int r = 0; r < rows; r++) before |= from[r] < all_from;
    if (before) { /* then the first part rescales, all rows alike */
        for (int r = 0; r < rows; r++) add_more(w + r, score[r], by[r], t, ahead, halves, a->values, from[r], all_from);
    }
    float rest[ROWS];
    for (int r = 0; r < rows; r++) rest[r] = before ? 1 : by[r];
    add_values(w, (const float(*)[TILE])score, rest, t, ahead, rows, halves, a->values, all_from, all_to);
    for (int r = 0; r < rows; r++) {
        if (to[r] > all_to) add_more(w + r, score[r], 1, t, ahead, halves, a->values, all_to, to[r]);
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

/* attend_block, a copy for each number of rows and each type. */
static void attend_some(const attention_args *a, row *w, const float *q, const tile *t, fetcher *ahead, int rows, int halves, int64_t base) {
#define COPIES(rows)                                                                                                   \
    case 2 * (rows): attend_block(a, w, q, t, ahead, rows, 0, base); break;                                            \
    case 2 * (rows) + 1: attend_block(a, w, q, t, ahead, rows, 1, base); break;
    switch (2 * rows + halves) {
        COPIES(1)
        COPIES(2)
        COPIES(4)
#if defined(LEVEL_AVX512)
        COPIES(8)
#endif
    }
#undef COPIES
}

/* What a row's sum of values is multiplied by in the end: 1 over the sum of all exponentials, that of its head's sink, where it
 * has one, among them. */
INLINE float share_of(const attention_args *a, const row *w) {
    if (w->sum == 0) return 0;
    if (!a->sinks) return 1 / w->sum;
    const float top = w->sink > w->top ? w->sink : w->top, by = exp_of(w->top - top);
    return by / (w->sum * by + exp_of(w->sink - top));
}

/* The rows of one item that fit into MOST. next is the first tile of what comes after them. */
static void attend_rows(const attention_args *a, row *w, const float *const *q, int rows, const int32_t *blocks, int64_t head,
                        const tile *next, float *scratch) {
    const int64_t dim = a->dim;
    float *const packed = scratch + 2 * TILE * dim;
    int64_t from = INT64_MAX, to = 0;
    for (int r = 0; r < rows; r++) {
        if (w[r].from < w[r].to && w[r].from < from) from = w[r].from;
        if (w[r].to > to) to = w[r].to;
        memset(w[r].out, 0, (size_t)a->values * sizeof *w[r].out);
    }
    for (int r = 0; r < rows; r += block_rows(rows - r)) {
        if (block_rows(rows - r) > 1) pack_rows(packed + r * dim, q + r, block_rows(rows - r), dim);
    }
    /* bfloat16 is unpacked where that is not done anew for every block of rows */
    const int direct = a->width == PANEL && (a->type == CPU_F32 || block_rows(rows) == rows);
    const int paged = a->width == PANEL, halves = direct && a->type == CPU_BF16;
    tile found = {0}, ahead;
    int64_t base = from < to ? from / TILE * TILE : to;
    for (int p = 0; p < PANELS && paged; p++) find_panel(a, &found, p, base, blocks, head, from, to);
    for (; base < to; base += TILE, found = ahead) {
        tile t = found;
        ahead = base + TILE < to ? (tile){0} : *next;
        for (int p = 0; p < PANELS && paged; p++) find_panel(a, &ahead, p, base + TILE, blocks, head, from, to);
        for (int p = 0; p < PANELS && !direct; p++) unpack_panel(a, &t, p, &found, base, blocks, head, from, to, scratch);
        fetcher f = fetcher_of(a, &ahead);
        for (int r = 0, n; r < rows; r += n) {
            n = block_rows(rows - r);
            attend_some(a, w + r, n > 1 ? packed + r * dim : q[r], &t, &f, n, halves, base);
        }
        while (fetch(&f, 64)) {}
    }
    for (int r = 0; r < rows; r++) {
        const float by = share_of(a, &w[r]);
        for (int64_t d = 0; d < a->values; d++) w[r].out[d] *= by;
    }
}

/* What token t of a sequence sees. */
INLINE void find_span(const attention_args *a, int64_t seq, int64_t t, int64_t *from, int64_t *to) {
    const int64_t position = a->position[t];
    *from = position + 1 > a->window ? position + 1 - a->window : 0;
    *to = a->context ? a->context[seq] : position + 1;
}

/* Where the first tile of an item lies, as its first token sees it; what that does not see is not worth fetching. */
INLINE void find_first(const attention_args *a, tile *t, const attention_item *it) {
    int64_t from, to;
    find_span(a, it->seq, it->from, &from, &to);
    const int32_t *const blocks = a->blocks + it->seq * a->blocks_stride;
    for (int p = 0; p < PANELS; p++) find_panel(a, t, p, from / TILE * TILE, blocks, it->head, from, to);
}

/* Fetches q and out of an item's first token. */
INLINE void fetch_rows(const attention_args *a, const attention_item *it) {
    const int64_t cols = a->group * a->dim, at = it->head * cols;
    for (int64_t i = 0; i < cols; i += 64 / (int64_t)sizeof *a->q) {
        __builtin_prefetch(a->q + it->from * a->q_stride + at + i, 0, 2);
        __builtin_prefetch(a->out + it->from * a->out_stride + it->head * a->group * a->values + i, 0, 2);
    }
}

static void attend(const attention_args *a, const attention_item *it, const attention_item *after, float *scratch) {
    row w[MOST];
    const float *q[MOST];
    const int32_t *const blocks = a->blocks + it->seq * a->blocks_stride;
    tile next = {0};
    if (after) {
        fetch_rows(a, after);
        if (a->width == PANEL) find_first(a, &next, after);
    }
    int rows = 0;
    for (int64_t t = it->from; t < it->to; t++) {
        int64_t from, to;
        find_span(a, it->seq, t, &from, &to);
        for (int64_t h = it->head * a->group; h < (it->head + 1) * a->group; h++) {
            q[rows] = a->q + t * a->q_stride + h * a->dim;
            w[rows++] = (row){a->out + t * a->out_stride + h * a->values, from, to, -INFINITY, 0, a->position[t], a->slopes ? a->slopes[h] : 0,
                              a->sinks ? a->sinks[h] : 0};
            if (rows == MOST) {
                attend_rows(a, w, q, rows, blocks, it->head, &next, scratch);
                rows = 0;
            }
        }
    }
    attend_rows(a, w, q, rows, blocks, it->head, &next, scratch);
}

#endif
