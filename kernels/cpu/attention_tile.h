/* Tiles of a paged KV cache, as attention reads them: where their panels lie, fetched ahead of use, and unpacked where the
 * cache holds no panels or its type is narrower than the products'. Included by attention.c, once a level.
 *
 * Shapes  a tile is 64 positions of K and V of one KV head, in panels of 16: K [dim][16], V [16][dim] (cache.go). A panel lies
 *         in one block of the cache, its neighbours anywhere. */
enum {
    TILE = 64,                        /* positions */
    PANEL = CPU_PANEL,                /* positions side by side in K */
    PANELS = TILE / PANEL,            /* of a tile */
};

/* One tile: its panels of K [dim][16] and of V [16][dim], in the cache or in scratch. */
typedef struct tile {
    const void *k[PANELS], *v[PANELS];
} tile;

/* Loads of float32 or of bfloat16. Which is a constant of each copy of a loop, as the number of rows is. */
INLINE vec vec_of(const int halves, const void *panel, int64_t at) {
    return halves ? vec_bf16((const uint16_t *)panel + at) : vec_load((const float *)panel + at);
}

INLINE vec vec_of_first(const int halves, const void *panel, int64_t at, int64_t n) {
    if (!halves) return vec_load_first((const float *)panel + at, n);
    vec v = vec_zero();
    for (int64_t i = 0; i < n; i++) v[i] = of_bits((uint32_t)((const uint16_t *)panel)[at + i] << 16);
    return v;
}

/* What will be read next, brought into L2 line by line beside the products: a core waits for memory otherwise, since a
 * sequence's blocks lie apart. Into L1 fewer lines would be under way at a time. */
typedef struct fetcher {
    const char *at, *end;
    const void *panel[2 * PANELS];
    int64_t bytes; /* of a panel */
    int left;      /* panels to come */
} fetcher;

/* The next bytes, rounded up to lines, if there are any: a step of a loop asks for as much as it reads. */
INLINE int fetch(fetcher *f, const int bytes) {
    const int lines = (bytes + 63) / 64;
    if (f->at >= f->end) {
        if (f->left == 0) return 0;
        f->at = f->panel[--f->left];
        f->end = f->at + f->bytes;
    }
#pragma GCC unroll 8
    for (int i = 0; i < lines; i++) __builtin_prefetch(f->at + 64 * i, 0, 2);
    f->at += 64 * lines;
    return 1;
}

/* The panels of a tile that were found; K of one, then V of it. */
INLINE fetcher fetcher_of(const attention_args *a, const tile *t) {
    fetcher f = {.bytes = PANEL * a->dim * (a->type == CPU_F32 ? 4 : 2)};
    for (int p = PANELS - 1; p >= 0; p--) {
        if (!t->k[p]) continue;
        f.panel[f.left++] = t->v[p];
        f.panel[f.left++] = t->k[p];
    }
    return f;
}

INLINE int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

/* dst = src, n bfloat16. */
INLINE void unpack(float *dst, const uint16_t *src, int64_t n) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 8
        for (int u = 0; u < 32; u += LANES) vec_store(dst + i + u, vec_bf16(src + i + u));
    }
    for (; i < n; i++) dst[i] = of_bits((uint32_t)src[i] << 16);
}

/* Where panel p of the tile at position base lies; [from, to) is what any row sees. A panel lies in one block. */
INLINE void find_panel(const attention_args *a, tile *t, int p, int64_t base, const int32_t *blocks, int64_t head, int64_t from,
                       int64_t to) {
    const int64_t at = base + p * PANEL, size = a->block_tokens, head_size = size * a->dim;
    if (at >= to || at + PANEL <= from) return;
    const int64_t k = 2 * head_size * (blocks[at / size] * a->kv_heads + head) + at % size * a->dim, bytes = a->type == CPU_F32 ? 4 : 2;
    t->k[p] = (const char *)a->data + k * bytes;
    t->v[p] = (const char *)a->data + (k + head_size) * bytes;
}

/* Unpacks panel p of a tile into scratch; found says where it lies where the cache has panels. */
INLINE void unpack_panel(const attention_args *a, tile *t, int p, const tile *found, int64_t base, const int32_t *blocks,
                         int64_t head, int64_t from, int64_t to, float *scratch) {
    const int64_t dim = a->dim, values = a->values, at = base + p * PANEL, size = a->block_tokens;
    float *const k = scratch + (int64_t)p * 2 * PANEL * dim, *const v = k + PANEL * dim;
    t->k[p] = k;
    t->v[p] = v;
    if (at >= to || at + PANEL <= from) return;
    if (a->width == PANEL) {
        unpack(k, found->k[p], PANEL * dim);
        unpack(v, found->v[p], PANEL * dim);
        return;
    }
    for (int64_t j = clamp(from - at, 0, PANEL); j < clamp(to - at, 0, PANEL); j++) {
        const int64_t key = a->head_step * (blocks[(at + j) / size] * a->kv_heads + head) + (at + j) % size * dim;
        if (a->type == CPU_F32) {
            const float *const row = (const float *)a->data + key;
            for (int64_t d = 0; d < dim; d++) k[d * PANEL + j] = row[d];
            memcpy(v + j * values, row + a->value_step, (size_t)values * sizeof *v);
        } else {
            const uint16_t *const row = (const uint16_t *)a->data + key;
            for (int64_t d = 0; d < dim; d++) k[d * PANEL + j] = of_bits((uint32_t)row[d] << 16);
            unpack(v + j * values, row + a->value_step, values);
        }
    }
}
