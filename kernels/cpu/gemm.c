/* The loop over panels and tiles, the same for every level: what a level brings is in its table of kernels.
 *
 * Order of sums: one accumulator an output (one a group where weights are int8), k ascending from 0, whatever the
 * tile, the panel, the task. Nothing here depends on the number of rows but the cut into tiles. */
#include "cpu.h"

#include <math.h>
#include <string.h>

const gemm_kernel *gemm_kernel_of(int level, int type, int vnni) {
#if defined(__x86_64__)
    if (level == GEMM_AMX && type == GEMM_BF16) return &gemm_amx_bf16;
    if (level == GEMM_AMX && type == GEMM_I8) return &gemm_amx_i8;
    if (level == GEMM_AMX && type == GEMM_MXFP4) return &gemm_amx_mxfp4;
    if (level == GEMM_AVX512 && type == GEMM_I8 && !vnni) return &gemm_avx512_without_vnni;
    if (level >= GEMM_AVX512BF16 && type == GEMM_BF16) return &gemm_avx512_bf16;
    if (level >= GEMM_AVX512BF16 && type == GEMM_MXFP4) return &gemm_avx512_bf16_mxfp4;
    if (level >= GEMM_AVX512) return &gemm_avx512[type];
    if (level == GEMM_AVX2) return &gemm_avx2[type];
#endif
    (void)level, (void)vnni;
    return &gemm_generic[type];
}

gemm_depth gemm_depth_of(const gemm_kernel *kernel, int64_t k, int64_t group) {
    gemm_depth d = {.groups = 1, .group = k};
    if (group > 0 && group < k) d.groups = k / group, d.group = group;
    d.padded = (d.group + kernel->step - 1) / kernel->step * kernel->step;
    return d;
}

static int64_t unit_bytes(int type) { return type == GEMM_F16 ? 2 : 4; }
static int64_t unit_values(int type) { return type == GEMM_I8 ? 4 : type == GEMM_BF16 ? 2 : 1; }

int64_t gemm_panel_bytes(const gemm_kernel *kernel, int64_t k, int64_t group) {
    if (kernel->widen) return gemm_mxfp4_bytes(k);
    const gemm_depth d = gemm_depth_of(kernel, k, group);
    const int64_t values = d.padded / unit_values(kernel->type) * unit_bytes(kernel->type);
    return d.groups * GEMM_PANEL * (values + (kernel->type == GEMM_I8 ? 8 : 0));
}

int64_t gemm_row_bytes(const gemm_kernel *kernel, int64_t k, int64_t group) {
    const gemm_depth d = gemm_depth_of(kernel, k, group);
    return d.groups * d.padded * kernel->x_bytes + (kernel->type == GEMM_I8 ? 4 : 0);
}

static int64_t tiles_of(const gemm_kernel *kernel, int64_t rows) {
    return (rows + kernel->tile_rows - 1) / kernel->tile_rows;
}

void gemm_pack_rows(const gemm_kernel *kernel, void *packed, const float *x, int64_t stride, const int32_t *index,
                    int64_t div, int64_t rows, int64_t tile0, int64_t tile1, int64_t k, int64_t group) {
    const gemm_depth d = gemm_depth_of(kernel, k, group);
    const gemm_task t = {.kernel = kernel, .packed = packed, .row_bytes = gemm_row_bytes(kernel, k, group), .rows = rows,
                         .tiles = tiles_of(kernel, rows)};
    for (int64_t tile = tile0; tile < tile1; tile++) {
        const float *from[GEMM_MAX_TILE];
        int n = 0;
        for (int64_t i = gemm_tile_row(&t, tile); i < gemm_tile_row(&t, tile + 1); i++) {
            from[n++] = x + (index ? index[i] / div : i) * stride;
        }
        kernel->pack((void *)gemm_tile_packed(&t, tile), from, n, &d);
    }
}

/* Blocks, so that x is read from L2 and not from L3 for every panel: as many rows as make 256 KiB, but at least 96, and at
 * most 256; as much of k as makes 256 KiB of them, and 4 panels before the next of k. Sums rest in memory meanwhile, which
 * changes no bit. Weights that are widened first are so 256 inputs at a time. */
enum { BLOCK_BYTES = 256 << 10, BLOCK_LEAST = 96, BLOCK_ROWS = 256, BLOCK_PANELS = 4, BLOCK_MULTIPLE = 64, BLOCK_WIDENED = 256 };

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* All panels of a task for the rows of some tiles. */
static void run_rows(const gemm_task *t, int64_t tile0, int64_t tile1) {
    float sums[BLOCK_PANELS][BLOCK_ROWS * GEMM_PANEL] __attribute__((aligned(64)));
    uint32_t wide[BLOCK_WIDENED / 2 * GEMM_PANEL] __attribute__((aligned(64)));
    const gemm_kernel *const kernel = t->kernel;
    const int64_t first = gemm_tile_row(t, tile0), rows = gemm_tile_row(t, tile1) - first;
    const int64_t k = t->depth.groups * t->depth.padded, line = GEMM_PANEL * unit_bytes(kernel->type);
    int64_t block = BLOCK_BYTES / (rows * kernel->x_bytes) / BLOCK_MULTIPLE * BLOCK_MULTIPLE;
    if (kernel->widen) block = smaller(block, BLOCK_WIDENED);
    if (block >= k || kernel->type == GEMM_I8) block = k;
    const int64_t panels = block < k ? BLOCK_PANELS : 1;
    for (int64_t panel = t->panel0; panel < t->panel1; panel += panels) {
        const int64_t count = smaller(panels, t->panel1 - panel);
        int64_t from = 0;
        do {
            const int64_t some = smaller(block, k - from), units = some / unit_values(kernel->type);
            const char *const w = t->panels + panel * t->panel_bytes + from / unit_values(kernel->type) * line;
            gemm_depth d = t->depth;
            if (block < k) d.padded = some;
            for (int64_t p = 0; p < count; p++) {
                /* What is read next is fetched by all tiles together, each its share: this block of the next panel, else
                 * the next block of the first one, else what the next panels begin with, at its end the next task's. */
                const char *next = w + (p + 1) * t->panel_bytes;
                if (p + 1 == count) next = from + block < k ? w + units * line : next - (w - t->panels - panel * t->panel_bytes);
                const int ends = p + 1 == count && from + block >= k && panel + count == t->panel1;
                gemm_fetch f = {next, line / (tile1 - tile0)};
                if (ends && t->ahead) f.from = t->ahead;
                else if (ends) f.pace = 0;
                const char *part = w + p * t->panel_bytes;
                if (kernel->widen) {
                    kernel->widen(wide, t->panels + (panel + p) * t->panel_bytes, k / 32, from / 32, (from + some) / 32);
                    part = (const char *)wide, f.pace = 0; /* the processor fetches the few bytes by itself */
                }
                for (int64_t tile = tile0; tile < tile1; tile++, f.from += f.pace * units) {
                    const int64_t row = gemm_tile_row(t, tile);
                    const int n = (int)(gemm_tile_row(t, tile + 1) - row);
                    const int64_t space = kernel->tile_space ? kernel->tile_space : n;
                    const char *const x = (const char *)gemm_tile_packed(t, tile) + from * kernel->x_bytes * space;
                    kernel->multiply(sums[p] + (row - first) * GEMM_PANEL, x, part, n, &d, from > 0, f);
                }
            }
            from += block;
        } while (from < k);
        for (int64_t p = 0; p < count; p++) {
            for (int64_t tile = tile0; tile < tile1; tile++) {
                const int64_t row = gemm_tile_row(t, tile);
                kernel->finish(&t->output, sums[p] + (row - first) * GEMM_PANEL, (int)(gemm_tile_row(t, tile + 1) - row), row,
                               panel + p);
            }
        }
    }
}

void gemm_run(const gemm_kernel *kernel, float *y, int64_t stride, const void *packed, const void *panels,
              const void *ahead, int64_t ahead_panels, int64_t panel_bytes, const float *bias, int64_t rows, int64_t tile0, int64_t tile1, int64_t columns,
              int64_t panel0, int64_t panel1, int64_t k, int64_t group, int gated, int activation, int add, float limit) {
    const gemm_depth d = gemm_depth_of(kernel, k, group);
    const gemm_task t = {
        .kernel = kernel, .packed = packed, .panels = panels, .ahead = ahead, .ahead_panels = ahead_panels,
        .row_bytes = gemm_row_bytes(kernel, k, group),
        .panel_bytes = panel_bytes, .rows = rows, .tiles = tiles_of(kernel, rows), .tile0 = tile0, .tile1 = tile1,
        .panel0 = panel0, .panel1 = panel1, .depth = d,
        .output = {.y = y, .bias = bias, .stride = stride, .columns = columns, .gated = gated,
                   .activation = activation, .add = add, .limit = limit},
    };
    if (kernel->run) {
        kernel->run(&t);
        return;
    }
    if (kernel->begin) kernel->begin();
    const int64_t most = smaller(larger(BLOCK_BYTES / larger(t.row_bytes, 1), BLOCK_LEAST), BLOCK_ROWS);
    for (int64_t tile = tile0, end; tile < tile1; tile = end) {
        for (end = tile + 1; end < tile1 && gemm_tile_row(&t, end + 1) - gemm_tile_row(&t, tile) <= most;) end++;
        run_rows(&t, tile, end);
    }
    if (kernel->end) kernel->end();
}

float gemm_quantum(uint32_t magnitude_bits, float *scale) {
    float magnitude;
    memcpy(&magnitude, &magnitude_bits, sizeof magnitude);
    if (magnitude_bits >= 0x7f800000) {
        *scale = NAN;
        return 0;
    }
    const int told = magnitude >= 1e-30f; /* from 0; 127 over it is finite */
    *scale = told ? magnitude / 127 : 0;
    return told ? 127 / magnitude : 0;
}
