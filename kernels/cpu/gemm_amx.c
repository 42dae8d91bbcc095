/* y = x·Wᵀ on tiles: bfloat16 pairs by TDPBF16PS, int8 quads, signed by signed, by TDPBSSD.
 *
 * Shapes  a step is 64 bytes of k: 32 bfloat16 or 64 int8. Packed x [steps][32 rows][64 bytes], for int8 followed by
 *         the scale of each row; panel [steps][2 halves][16][16 outputs][4 bytes], see cpu.h. k is padded to whole steps.
 * Tiles   four live ones, 2 sums, 1 of x, 1 of weights: where a neighbour on the core takes the renaming of tiles, a
 *         loop of eight falls to half the speed of this one (seen: 437–468 against 793–911 GFLOP/s on two cores).
 *         Up to 16 rows: the two halves of a panel side by side; more: two halves of the rows, one half of a panel; but
 *         six tiles where 17 to 32 rows are all, since there the memory is the limit.
 * Order   an accumulator an output, k ascending. Sums rest in memory between blocks of k, which changes no bit. A group
 *         of int8 is exact; groups ascending, fused, in float32, then times the scale of the row.
 * Memory  one tile of rows: panels stream once, in order of addresses. More: blocks of 8 steps of x (16 KiB, L1) meet 4
 *         panels (L2), while all tiles together fetch the next ones, at the end the next task's, into L2, and each the
 *         next steps into L1. Two tiles, which memory bounds: no more panels than make 288 KiB, but 2.
 * Speed   Sapphire Rapids, one core beside busy ones, N=K=2048, M=256: bf16 510–830 GFLOP/s, int8 1100–1600, where
 *         float32 has 160; M=64: 430–565; M<=16: 14 GB/s of weights. Two cores: bf16 890, int8 1590, M=1 20 to 22 GB/s.
 * Border  configuring, computing and releasing are one call, so no goroutine ever changes threads with live tiles. */
#include "cpu.h"
#if defined(__x86_64__)
#include "tiles.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,amx-tile,amx-bf16,amx-int8")))
#define INLINE static inline __attribute__((always_inline)) TARGET
enum { STEP = 64, ROWS = 32, PANEL_STEP = 16 * GEMM_PANEL * 4, RIGHT = PANEL_STEP / 2, X_STEP = ROWS * STEP, BLOCK_STEPS = 8, BLOCK_PANELS = 4 };
enum { SUMS = ROWS * GEMM_PANEL }; /* of one tile and one panel */
enum { FETCHED = 288 << 10 }; /* bytes of panels that two tiles of rows meet, and of those fetched meanwhile: both and x lie in L2 */
enum { AHEAD = 8192, SOON = 2, PAGE = 4096 }; /* bytes of a panel from memory, steps of one from L2, that are fetched ahead */

/* Memory to bring into L2 meanwhile, pace bytes for each step of each half. */
typedef struct stream {
    const char *from, *end;
    int pace;
} stream;

INLINE void fetch(stream *f) {
    if (f->from >= f->end) return;
    for (int line = 0; line < f->pace; line += 64) _mm_prefetch(f->from + line, _MM_HINT_T1);
    f->from += f->pace;
}

/* For a panel that streams from memory: opens a page 8 KiB before it is read by asking for its first lines, after which
 * the core's own prefetcher reads it on. Asked for line by line it came slower: each line holds one of the few places in
 * which loads of tiles wait as well. Each step asks for its share of its page's lines, so that nothing branches. near:
 * into L1. */
INLINE void open_page(const char *w, const int lines, const int near) {
    const int share = lines * PANEL_STEP / PAGE, step = (int)((uintptr_t)w % PAGE / PANEL_STEP);
    const char *const from = w + AHEAD - (uintptr_t)w % PAGE + step * share * 64;
    for (int line = 0; line < share; line++) {
        if (near) _mm_prefetch(from + line * 64, _MM_HINT_T0);
        else _mm_prefetch(from + line * 64, _MM_HINT_T1);
    }
}

/* sums (+)= x · panel over some steps, up to 16 rows. Where f is NULL the panel is still in memory. */
INLINE void few_rows(const int type, void *sums, const char *x, const char *w, int64_t steps, int more, stream *f) {
    if (more) {
        TILE_LOAD(0, sums, 128);
        TILE_LOAD(1, (char *)sums + 64, 128);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
    }
    for (int64_t i = 0; i < steps; i++, x += X_STEP, w += PANEL_STEP) {
        if (f) {
            fetch(f);
            fetch(f);
        } else {
            open_page(w, 8, 1);
        }
        TILE_LOAD(2, x, STEP);
        TILE_LOAD(3, w, STEP);
        TILE_DOT(type, 0, 2, 3);
        TILE_LOAD(3, w + RIGHT, STEP);
        TILE_DOT(type, 1, 2, 3);
    }
    TILE_STORE(0, sums, 128);
    TILE_STORE(1, (char *)sums + 64, 128);
}

/* The same for 17 to 32 rows in one sweep, so that panels stream from memory as for few. */
INLINE void sweep(const int type, void *sums, const char *x, const char *w, int64_t steps, int more) {
    char *const top = sums, *const bottom = top + 16 * 128;
    if (more) {
        TILE_LOAD(0, top, 128);
        TILE_LOAD(1, top + 64, 128);
        TILE_LOAD(4, bottom, 128);
        TILE_LOAD(5, bottom + 64, 128);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(4);
        TILE_ZERO(5);
    }
    for (int64_t i = 0; i < steps; i++, x += X_STEP, w += PANEL_STEP) {
        if (type == GEMM_BF16) open_page(w, 16, 0);
        else for (int line = 0; line < PANEL_STEP; line += 64) _mm_prefetch(w + AHEAD + line, _MM_HINT_T0); /* by pages: 10 % slower */
        TILE_LOAD(2, x, STEP);
        TILE_LOAD(3, w, STEP);
        TILE_DOT(type, 0, 2, 3);
        TILE_LOAD(2, x + 16 * STEP, STEP);
        TILE_DOT(type, 4, 2, 3);
        TILE_LOAD(3, w + RIGHT, STEP);
        TILE_DOT(type, 5, 2, 3);
        TILE_LOAD(2, x, STEP);
        TILE_DOT(type, 1, 2, 3);
    }
    TILE_STORE(0, top, 128);
    TILE_STORE(1, top + 64, 128);
    TILE_STORE(4, bottom, 128);
    TILE_STORE(5, bottom + 64, 128);
}

/* The same for 17 to 32 rows, 16 outputs after the other 16, of a panel that is in L2; then is where the next one is. */
INLINE void many_rows(const int type, void *sums, const char *x, const char *w, int64_t steps, int more, stream *f,
                      const char *then) {
    for (int half = 0; half < 128; half += 64) {
        char *const top = (char *)sums + half, *const bottom = top + 16 * 128;
        const char *const side = half ? w + RIGHT : w, *const after = half ? then : w + RIGHT;
        if (more) {
            TILE_LOAD(0, top, 128);
            TILE_LOAD(1, bottom, 128);
        } else {
            TILE_ZERO(0);
            TILE_ZERO(1);
        }
        for (int64_t i = 0; i < steps; i++) {
            const char *const soon = i + SOON < steps ? side + (i + SOON) * PANEL_STEP : after + (i + SOON - steps) * PANEL_STEP;
            for (int line = 0; line < 16; line++) _mm_prefetch(soon + line * STEP, _MM_HINT_T0);
            fetch(f);
            TILE_LOAD(3, side + i * PANEL_STEP, STEP);
            TILE_LOAD(2, x + i * X_STEP, STEP);
            TILE_DOT(type, 0, 2, 3);
            TILE_LOAD(2, x + i * X_STEP + 16 * STEP, STEP);
            TILE_DOT(type, 1, 2, 3);
        }
        TILE_STORE(0, top, 128);
        TILE_STORE(1, bottom, 128);
    }
}

/* sums += dots · scale for one group. */
TARGET static void add_group(float *sums, const int32_t *dots, const float *scale, int rows, int first) {
    const __m512 s0 = _mm512_loadu_ps(scale), s1 = _mm512_loadu_ps(scale + 16);
    for (int i = 0; i < rows * GEMM_PANEL; i += GEMM_PANEL) {
        const __m512 d0 = _mm512_cvtepi32_ps(_mm512_load_si512(dots + i));
        const __m512 d1 = _mm512_cvtepi32_ps(_mm512_load_si512(dots + i + 16));
        const __m512 b0 = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + i);
        const __m512 b1 = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + i + 16);
        _mm512_store_ps(sums + i, _mm512_fmadd_ps(d0, s0, b0));
        _mm512_store_ps(sums + i + 16, _mm512_fmadd_ps(d1, s1, b1));
    }
}

TARGET static void scale_rows(float *sums, const float *scale, int rows) {
    for (int i = 0; i < rows * GEMM_PANEL; i += 16) {
        _mm512_store_ps(sums + i, _mm512_mul_ps(_mm512_load_ps(sums + i), _mm512_set1_ps(scale[i / GEMM_PANEL])));
    }
}

/* All of k for one tile of rows and some adjacent panels, block by block. Where f is NULL the panels are not in the
 * cache yet and stream whole. */
INLINE void multiply(const int type, float (*sums)[SUMS], const char *x, const char *panels, int64_t count, int rows,
                     stream *f, const gemm_task *t) {
    int32_t dots[BLOCK_PANELS][SUMS] __attribute__((aligned(64)));
    const gemm_depth *const d = &t->depth;
    const int64_t steps = d->padded / (type == GEMM_BF16 ? 32 : 64);
    const int64_t block = rows > 16 && f ? BLOCK_STEPS : steps;
    if (steps == 0) memset(sums, 0, count * sizeof *sums), memset(dots, 0, sizeof dots);
    const int64_t group_bytes = steps * PANEL_STEP + (type == GEMM_I8 ? 8 * GEMM_PANEL : 0);
    for (int64_t g = 0; g < d->groups; g++) {
        for (int64_t s = 0; s < steps; s += block) {
            const int64_t n = steps - s < block ? steps - s : block;
            const char *const from = x + (g * steps + s) * X_STEP;
            for (int64_t p = 0; p < count; p++) {
                void *const to = type == GEMM_BF16 ? (void *)sums[p] : (void *)dots[p];
                const char *const w = panels + p * t->panel_bytes + g * group_bytes + s * PANEL_STEP;
                const char *const then = p + 1 < count ? w + t->panel_bytes : panels + g * group_bytes + (s + n) * PANEL_STEP;
                if (rows <= 16) few_rows(type, to, from, w, n, s > 0, f);
                else if (!f) sweep(type, to, from, w, n, s > 0);
                else many_rows(type, to, from, w, n, s > 0, f, then);
            }
        }
        for (int64_t p = 0; type == GEMM_I8 && p < count; p++) {
            const char *const scale = panels + p * t->panel_bytes + g * group_bytes + steps * PANEL_STEP;
            add_group(sums[p], dots[p], (const float *)scale, rows, g == 0);
        }
    }
    for (int64_t p = 0; type == GEMM_I8 && p < count; p++) {
        scale_rows(sums[p], (const float *)(x + d->groups * steps * X_STEP), rows);
    }
}

/* How many panels two tiles of rows meet at once. With 4 of 128 KiB 33 to 64 rows lose 3 to 4 %. */
INLINE int64_t panels_fetched(int64_t panel_bytes) {
    const int64_t most = panel_bytes > 0 ? FETCHED / panel_bytes : BLOCK_PANELS;
    return most < 2 ? 2 : most > BLOCK_PANELS ? BLOCK_PANELS : most;
}

INLINE void run(const int type, const gemm_task *t) {
    float sums[BLOCK_PANELS][SUMS] __attribute__((aligned(64)));
    const int64_t tiles = t->tile1 - t->tile0, chunk = tiles == 1 ? 1 : tiles == 2 ? panels_fetched(t->panel_bytes) : BLOCK_PANELS;
    const int pace = (int)(PANEL_STEP / 2 / tiles + 63) / 64 * 64; /* all tiles together fetch as much as they read */
    configure_tiles(tiles == 1 ? 6 : 4);
    for (int64_t panel = t->panel0; panel < t->panel1; panel += chunk) {
        const int64_t left = t->panel1 - panel, count = left < chunk ? left : chunk;
        const char *const panels = t->panels + panel * t->panel_bytes;
        const char *const next = left > count ? panels + count * t->panel_bytes : t->ahead;
        const int64_t then = left > count ? left - count : t->ahead ? t->ahead_panels : 0;
        stream f = {next, next + (then < chunk ? then : chunk) * t->panel_bytes, pace};
        for (int64_t tile = t->tile0; tile < t->tile1; tile++) {
            const int64_t row = gemm_tile_row(t, tile);
            const int rows = (int)(gemm_tile_row(t, tile + 1) - row);
            multiply(type, sums, gemm_tile_packed(t, tile), panels, count, rows, tiles == 1 ? NULL : &f, t);
            for (int64_t p = 0; p < count; p++) t->kernel->finish(&t->output, sums[p], rows, row, panel + p);
        }
    }
    release_tiles();
}

TARGET static void run_bf16(const gemm_task *t) { run(GEMM_BF16, t); }
TARGET static void run_i8(const gemm_task *t) { run(GEMM_I8, t); }

/* One tile by a block of a panel that was just widened, in L1. */
TARGET static void multiply_widened(float *sums, const void *x, const void *w, int rows, const gemm_depth *d, int more, gemm_fetch f) {
    stream nothing = {f.from, f.from, 0};
    if (rows <= 16) few_rows(GEMM_BF16, sums, x, w, d->padded / 32, more, &nothing);
    else many_rows(GEMM_BF16, sums, x, w, d->padded / 32, more, &nothing, w);
}

TARGET static void begin(void) { configure_tiles(4); }
TARGET static void end(void) { release_tiles(); }

/* Products without loads: n times four sums that do not wait for each other. */
TARGET double gemm_amx_peak(int type, int64_t n) {
    configure_tiles(6);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_ZERO(4);
    TILE_ZERO(5);
    for (int64_t i = 0; i < n; i++) {
        TILE_DOT(type, 0, 4, 5);
        TILE_DOT(type, 1, 4, 5);
        TILE_DOT(type, 2, 4, 5);
        TILE_DOT(type, 3, 4, 5);
    }
    release_tiles();
    return 4.0 * 16 * 16 * (type == GEMM_BF16 ? 32 : 64) * (double)n;
}

const gemm_kernel gemm_amx_bf16 = {
    .type = GEMM_BF16, .tile_rows = ROWS, .tile_space = ROWS, .step = 32, .x_bytes = 2, .pack = gemm_rows_bf16_amx,
    .run = run_bf16, .finish = gemm_finish_avx512, .tiled = 1,
};
const gemm_kernel gemm_amx_mxfp4 = {
    .type = GEMM_BF16, .tile_rows = ROWS, .tile_space = ROWS, .step = 32, .x_bytes = 2, .pack = gemm_rows_bf16_amx,
    .multiply = multiply_widened, .finish = gemm_finish_avx512, .tiled = 1, .widen = gemm_widen_tiles, .begin = begin, .end = end,
};
const gemm_kernel gemm_amx_i8 = {
    .type = GEMM_I8, .tile_rows = ROWS, .tile_space = ROWS, .step = 64, .x_bytes = 1, .pack = gemm_rows_s8_amx,
    .run = run_i8, .finish = gemm_finish_avx512, .tiled = 1,
};
#endif
