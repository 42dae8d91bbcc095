/* Weights into panels, once, at load: one pass over the source (two for int8, the first for its scales), one over the
 * panel. Rounds to nearest, ties to even; see cpu.h for how a panel lies. The same for every level.
 * Sixteen units of up to 32 outputs go through a block in L1, since rows of the source are often a power of two apart
 * and would push each other out of the cache.
 * Speed  one core of a busy Zen 4, GB/s of source: float32 and bf16 as they are 2.5 to 3.6, float32 to bf16 3.4, to int8
 *        4, bf16 to int8 1.5, float16 1 to 2; half to a third of that where the source is transposed. */
#include "cpu.h"

#include <string.h>

enum { BLOCK = 16, HALF = GEMM_PANEL / 2, AHEAD = 128 }; /* AHEAD: values of a row fetched before their block: so many rows at once are no stream */

typedef struct matrix { /* value (output i, input p) at i·output_stride + p·input_stride */
    const char *source;
    int type;
    int64_t output_stride, input_stride;
} matrix;

static float from_bits(uint32_t b) {
    float v;
    memcpy(&v, &b, sizeof v);
    return v;
}

static uint32_t to_bits(float v) {
    uint32_t b;
    memcpy(&b, &v, sizeof b);
    return b;
}

/* A half's magnitude moved up is the half times 2⁻¹¹²; infinities and NaN need their exponent filled. */
static float widen_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = (uint32_t)(h & 0x7fff) << 13;
    const uint32_t finite = to_bits(from_bits(magnitude) * 0x1p112f);
    return from_bits(sign | (magnitude >= 0x0f800000 ? magnitude | 0x70000000 : finite));
}

static uint16_t round_bf16(float v) {
    const uint32_t b = to_bits(v);
    if ((b & 0x7fffffff) > 0x7f800000) return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

static uint16_t round_f16(float v) {
    const uint32_t bits = to_bits(v), b = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (b > 0x7f800000) return sign | 0x7e00;
    if (b >= 0x47800000) return sign | 0x7c00;                                        /* 65536 */
    if (b < 0x38800000) return sign | (uint16_t)(to_bits(from_bits(b) + 0.5f) - 0x3f000000); /* multiples of 2⁻²⁴ */
    return sign | (uint16_t)((b - 0x38000000 + 0xfff + (b >> 13 & 1)) >> 13);
}

/* Inputs [from, from+n) of an output, as float32 or in the source's own 16 bits; beyond k they are 0. */
static void read_f32(float *to, const matrix *m, int64_t output, int64_t from, int64_t n, int64_t k) {
    const int64_t at = output * m->output_stride + from * m->input_stride, step = m->input_stride;
    const int64_t have = k - from < n ? (k > from ? k - from : 0) : n;
    const float *const f = (const float *)m->source + at;
    const uint16_t *const h = (const uint16_t *)m->source + at;
    if (m->type == GEMM_F32) {
        if (step == 1) memcpy(to, f, have * sizeof *to);
        else for (int64_t i = 0; i < have; i++) to[i] = f[i * step];
    } else if (m->type == GEMM_BF16) {
        if (step == 1) for (int64_t i = 0; i < have; i++) to[i] = from_bits((uint32_t)h[i] << 16);
        else for (int64_t i = 0; i < have; i++) to[i] = from_bits((uint32_t)h[i * step] << 16);
    } else {
        if (step == 1) for (int64_t i = 0; i < have; i++) to[i] = widen_f16(h[i]);
        else for (int64_t i = 0; i < have; i++) to[i] = widen_f16(h[i * step]);
    }
    for (int64_t i = have; i < n; i++) to[i] = 0;
}

static void read_16_bits(uint16_t *to, int type, const matrix *m, int64_t output, int64_t from, int64_t n, int64_t k) {
    if (m->type == type) {
        const uint16_t *const h = (const uint16_t *)m->source + output * m->output_stride + from * m->input_stride;
        const int64_t have = k - from < n ? (k > from ? k - from : 0) : n;
        __builtin_prefetch(h + AHEAD);
        if (m->input_stride == 1 && have == 2 * BLOCK) memcpy(to, h, 2 * BLOCK * sizeof *to);
        else if (m->input_stride == 1) memcpy(to, h, have * sizeof *to);
        else for (int64_t i = 0; i < have; i++) to[i] = h[i * m->input_stride];
        for (int64_t i = have; i < n; i++) to[i] = 0;
        return;
    }
    float wide[2 * BLOCK];
    read_f32(wide, m, output, from, n, k);
    for (int64_t i = 0; i < n; i++) to[i] = type == GEMM_BF16 ? round_bf16(wide[i]) : round_f16(wide[i]);
}

/* n units of each output from column on to where the panel has these units, runs of adjacent outputs at a time. */
static void scatter_32(uint32_t *units, const gemm_kernel *kernel, const uint32_t (*block)[BLOCK], int64_t column,
                       int64_t outputs, int64_t n) {
    const int64_t run = kernel->tiled ? HALF : GEMM_PANEL;
    for (int64_t c = 0; c < outputs;) {
        const int64_t first = (column + c) / run, room = (first + 1) * run - column - c;
        const int64_t end = c + room < outputs ? c + room : outputs;
        uint32_t *const to = units + first * BLOCK * run + column - first * run;
        for (int64_t j = 0; j < n; j++) {
            for (int64_t i = c; i < end; i++) to[j * run + i] = block[i][j];
        }
        c = end;
    }
}

static void pack_floats(const gemm_kernel *kernel, void *panel, int64_t column, int64_t outputs, const matrix *m, int64_t k,
                        int64_t padded) {
    uint32_t block[GEMM_PANEL][BLOCK];
    const int type = kernel->type;
    const int64_t values = type == GEMM_BF16 ? 2 : 1, units = padded / values;
    for (int64_t u = 0; u < units; u += BLOCK) {
        const int64_t n = units - u < BLOCK ? units - u : BLOCK;
        for (int64_t c = 0; c < outputs; c++) {
            if (type == GEMM_F32) read_f32((float *)block[c], m, c, u, n, k);
            else read_16_bits((uint16_t *)block[c], type, m, c, u * values, n * values, k);
        }
        if (type != GEMM_F16) {
            scatter_32((uint32_t *)panel + u * GEMM_PANEL, kernel, block, column, outputs, n);
            continue;
        }
        for (int64_t j = 0; j < n; j++) {
            for (int64_t c = 0; c < outputs; c++) {
                ((uint16_t *)panel)[(u + j) * GEMM_PANEL + column + c] = ((const uint16_t *)block[c])[j];
            }
        }
    }
}

static uint32_t magnitude_of(const matrix *m, int64_t output, int64_t from, int64_t n) {
    float wide[256];
    int32_t most = 0;
    for (int64_t p = 0; p < n; p += 256) {
        const int64_t some = n - p < 256 ? n - p : 256;
        read_f32(wide, m, output, from + p, some, from + n);
        for (int64_t i = 0; i < some; i++) {
            const int32_t b = (int32_t)(to_bits(wide[i]) & 0x7fffffff);
            most = b > most ? b : most;
        }
    }
    return (uint32_t)most;
}

/* Whole numbers of magnitude up to 127 nearest to value·inverse, ties to even: where the last bit of the sum with 1.5·2²³
 * is worth 1, its low byte is the number. */
static void quantize(int8_t *q, const float *value, float inverse, int64_t n) {
    for (int64_t i = 0; i < n; i++) q[i] = (int8_t)to_bits(value[i] * inverse + 0x1.8p23f);
}

/* One group: its quads, then the scales and offsets of its outputs. column counts from the panel's start. */
static void pack_group(const gemm_kernel *kernel, char *panel, int64_t column, int64_t outputs, const matrix *m, int64_t from, const gemm_depth *d) {
    uint32_t block[GEMM_PANEL][BLOCK];
    float inverse[GEMM_PANEL], *const scale = (float *)(panel + d->padded * GEMM_PANEL) + column;
    int32_t *const offset = (int32_t *)(scale + GEMM_PANEL);
    for (int64_t c = 0; c < outputs; c++) inverse[c] = gemm_quantum(magnitude_of(m, c, from, d->group), &scale[c]);
    for (int64_t u = 0, units = d->padded / 4; u < units; u += BLOCK) {
        const int64_t n = units - u < BLOCK ? units - u : BLOCK;
        for (int64_t c = 0; c < outputs; c++) {
            float wide[4 * BLOCK];
            int8_t *const q = (int8_t *)block[c];
            int32_t sum = 0;
            read_f32(wide, m, c, from + 4 * u, 4 * n, from + d->group);
            if (inverse[c] == 0) memset(wide, 0, sizeof wide); /* infinities and NaN among them */
            quantize(q, wide, inverse[c], 4 * n);
            for (int64_t i = 0; i < 4 * n; i++) sum += q[i];
            offset[c] -= 128 * sum;
        }
        scatter_32((uint32_t *)panel + u * GEMM_PANEL, kernel, block, column, outputs, n);
    }
}

void gemm_pack_panel(const gemm_kernel *kernel, void *panel, int64_t column, int64_t columns, const void *source,
                     int source_type, int64_t output_stride, int64_t input_stride, int64_t k, int64_t group) {
    const matrix m = {source, source_type, output_stride, input_stride};
    const gemm_depth d = gemm_depth_of(kernel, k, group);
    char *to = panel;
    if (kernel->type != GEMM_I8) {
        pack_floats(kernel, panel, column, columns, &m, k, d.padded);
        return;
    }
    for (int64_t g = 0; g < d.groups; g++, to += (d.padded + 8) * GEMM_PANEL) {
        pack_group(kernel, to, column, columns, &m, g * d.group, &d);
    }
}
