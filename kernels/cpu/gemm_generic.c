/* y = x·Wᵀ in plain C, for CPUs without a kernel of their own: the compiler's vectors (SSE2, NEON).
 *
 * Shapes  sums [rows][32] (+)= packed x [k][rows], int8 [rows][k], · panel [k/u][32][u]; see cpu.h.
 * Order   an accumulator an output, k ascending, product and sum rounded apart; int8 exact a group.
 * Speed   a token at a time; weights are widened for each. For correctness, and where nothing better is. */
#include "cpu.h"

#include <math.h>
#include <string.h>

static float from_bits(uint32_t b) {
    float v;
    memcpy(&v, &b, sizeof v);
    return v;
}

#define MULTIPLY(name)                                                                                                 \
    static void name(float *sums, const void *packed, const void *panel, int rows, const gemm_depth *d, int more, gemm_fetch f)

MULTIPLY(multiply_f32) {
    (void)f;
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL) {
        const float *x = (const float *)packed + r;
        const float *w = panel;
        float s[GEMM_PANEL] = {0};
        if (more) memcpy(s, sums, sizeof s);
        for (int64_t p = 0; p < d->padded; p++, x += rows, w += GEMM_PANEL) {
            for (int c = 0; c < GEMM_PANEL; c++) s[c] += *x * w[c];
        }
        memcpy(sums, s, sizeof s);
    }
}

MULTIPLY(multiply_bf16) {
    (void)f;
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL) {
        const float *x = (const float *)packed + r;
        const uint32_t *w = panel;
        float s[GEMM_PANEL] = {0};
        if (more) memcpy(s, sums, sizeof s);
        for (int64_t p = 0; p < d->padded; p += 2, x += 2 * rows, w += GEMM_PANEL) {
            for (int c = 0; c < GEMM_PANEL; c++) s[c] += x[0] * from_bits(w[c] << 16);
            for (int c = 0; c < GEMM_PANEL; c++) s[c] += x[rows] * from_bits(w[c] & 0xffff0000);
        }
        memcpy(sums, s, sizeof s);
    }
}

MULTIPLY(multiply_f16) {
    (void)f;
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL) {
        const float *x = (const float *)packed + r;
        const uint16_t *w = panel;
        float s[GEMM_PANEL] = {0};
        if (more) memcpy(s, sums, sizeof s);
        for (int64_t p = 0; p < d->padded; p++, x += rows, w += GEMM_PANEL) {
            for (int c = 0; c < GEMM_PANEL; c++) {
                /* A half's bits moved up are the half times 2⁻¹¹²; infinities and NaN need their exponent filled. */
                const uint32_t magnitude = (uint32_t)(w[c] & 0x7fff) << 13, sign = (uint32_t)(w[c] & 0x8000) << 16;
                const float v = magnitude >= 0x0f800000 ? from_bits(magnitude | 0x70000000) : from_bits(magnitude) * 0x1p112f;
                s[c] += *x * (sign ? -v : v);
            }
        }
        memcpy(sums, s, sizeof s);
    }
}

MULTIPLY(multiply_i8) {
    (void)more, (void)f;
    const int64_t k = d->groups * d->padded;
    const int8_t *x = packed;
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL) {
        const int8_t *w = panel;
        float s[GEMM_PANEL] = {0};
        for (int64_t g = 0; g < d->groups; g++) {
            int32_t dot[GEMM_PANEL] = {0};
            for (int64_t p = 0; p < d->padded; p += 4, x += 4, w += 4 * GEMM_PANEL) {
                for (int c = 0; c < GEMM_PANEL; c++) {
                    for (int i = 0; i < 4; i++) dot[c] += x[i] * w[4 * c + i];
                }
            }
            const float *const scale = (const float *)w;
            for (int c = 0; c < GEMM_PANEL; c++) s[c] = fmaf((float)dot[c], scale[c], s[c]);
            w += 8 * GEMM_PANEL;
        }
        const float row_scale = ((const float *)((const char *)packed + rows * k))[r];
        for (int c = 0; c < GEMM_PANEL; c++) sums[c] = s[c] * row_scale;
    }
}

static void rows_f32(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    float *to = packed;
    for (int64_t p = 0; p < d->padded; p++) {
        for (int r = 0; r < rows; r++) *to++ = p < d->group ? x[r][p] : 0;
    }
}

static void rows_s8(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    const int64_t k = d->groups * d->group;
    int8_t *to = packed;
    float *const scale = (float *)(to + rows * d->groups * d->padded);
    for (int r = 0; r < rows; r++) {
        uint32_t most = 0;
        for (int64_t p = 0; p < k; p++) {
            uint32_t b;
            memcpy(&b, &x[r][p], sizeof b);
            b &= 0x7fffffff;
            most = b > most ? b : most;
        }
        const float inverse = gemm_quantum(most, &scale[r]);
        for (int64_t g = 0; g < d->groups; g++, to += d->padded) {
            for (int64_t p = 0; p < d->padded; p++) {
                const int told = inverse != 0 && p < d->group;
                to[p] = told ? (int8_t)rintf(x[r][g * d->group + p] * inverse) : 0;
            }
        }
    }
}

/* ---- what becomes of the sums ---- */

static float activate(int activation, float x) {
    switch (activation) {
    case GEMM_GELU_TANH: return (float)(x / (1 + exp(-1.5957691216057308 * (x + 0.044715 * x * (double)x * x))));
    case GEMM_GELU_ERF: return (float)(0.5 * x * erfc(x * -0.70710678118654752));
    case GEMM_SILU: return (float)(x / (1 + exp(-(double)x)));
    case GEMM_RELU: return x < 0 ? 0 : x;
    }
    return x;
}

static float clamped_swiglu(float gate, float up, float limit) {
    const double g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
    return (float)(g / (1 + exp(-1.702 * g)) * (u + 1));
}

static void finish(const gemm_output *o, float *sums, int rows, int64_t row, int64_t panel) {
    const int width = o->gated ? GEMM_PANEL / 2 : GEMM_PANEL;
    const float *const bias = o->bias ? o->bias + panel * GEMM_PANEL : NULL;
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL) {
        float *const y = o->y + (row + r) * o->stride + panel * width;
        for (int c = 0; c < width && panel * width + c < o->columns; c++) {
            float v = activate(o->activation, bias ? sums[c] + bias[c] : sums[c]);
            if (o->gated) {
                const float up = bias ? sums[width + c] + bias[width + c] : sums[width + c];
                v = o->activation == GEMM_CLAMPED_SWIGLU ? clamped_swiglu(v, up, o->limit) : v * up;
            }
            y[c] = o->add ? y[c] + v : v;
        }
    }
}

#define TILE 8
const gemm_kernel gemm_generic[5] = {
    [GEMM_F32] = {GEMM_F32, TILE, 0, 1, 4, rows_f32, multiply_f32, NULL, finish},
    [GEMM_BF16] = {GEMM_BF16, TILE, 0, 2, 4, rows_f32, multiply_bf16, NULL, finish},
    [GEMM_F16] = {GEMM_F16, TILE, 0, 1, 4, rows_f32, multiply_f16, NULL, finish},
    [GEMM_I8] = {GEMM_I8, TILE, 0, 4, 1, rows_s8, multiply_i8, NULL, finish},
    [GEMM_MXFP4] = {.type = GEMM_BF16, .tile_rows = TILE, .step = 2, .x_bytes = 4, .pack = rows_f32, .multiply = multiply_bf16,
                    .finish = finish, .widen = gemm_widen_generic},
};
