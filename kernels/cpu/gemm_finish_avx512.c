/* What becomes of a tile's sums: y = act(sum + bias), act(gate + bias)·(up + bias), and y += where asked.
 * Every lane goes through the same polynomials, ragged ends by mask, so an output's bits depend on its sum alone.
 * Activations are within 4 units in the last place of their exact value, down to 2⁻¹²⁰. */
#include "cpu.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define SET _mm512_set1_ps

/* e^x = 2^n · e^r, |r| <= ln2/2; overflows to infinity, underflows through denormals to 0. */
INLINE __m512 exp_16(__m512 x) {
    const __m512 bounded = _mm512_max_ps(SET(-150.0f), _mm512_min_ps(SET(150.0f), x)); /* a NaN stays: min, max give x */
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, SET(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, SET(0x1.62e4p-1f), bounded); /* ln2 in two parts, the first times n exact */
    r = _mm512_fnmadd_ps(n, SET(0x1.7f7d1cp-20f), r);
    __m512 q = SET(1.392617612e-03f);
    q = _mm512_fmadd_ps(q, r, SET(8.363173075e-03f));
    q = _mm512_fmadd_ps(q, r, SET(4.166655466e-02f));
    q = _mm512_fmadd_ps(q, r, SET(1.666657703e-01f));
    q = _mm512_fmadd_ps(q, r, SET(5.000000000e-01f));
    const __m512 p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r);
    return _mm512_scalef_ps(_mm512_add_ps(p, SET(1.0f)), n);
}

/* x·sigmoid(t + low) = x/(1 + e^−t·(1 − low)), low what t lost by rounding. */
INLINE __m512 times_sigmoid(__m512 x, __m512 t, __m512 low) {
    const __m512 e = exp_16(_mm512_xor_ps(t, SET(-0.0f)));
    const __m512 finite = _mm512_min_ps(e, SET(0x1.fffffep+127f));
    return _mm512_div_ps(x, _mm512_add_ps(SET(1.0f), _mm512_fnmadd_ps(finite, low, e)));
}

/* 0.5x(1 + tanh u) = x·sigmoid(2u), 2u = x(a + b·x²), a = 2√(2/π), b = 0.044715·a. The exponent takes the absolute
 * error of 2u for a relative one, so 2u is computed to twice float32's digits: each line's rounding in the next. */
INLINE __m512 gelu_tanh(__m512 x) {
    const __m512 a = SET(0x1.988454p+0f), a_low = SET(-0x1.857936p-25f), b = SET(0x1.2444f2p-4f), b_low = SET(0x1.49b16ap-29f);
    const __m512 v = _mm512_max_ps(SET(-20.0f), _mm512_min_ps(SET(20.0f), x)); /* e^±600 is 0 or infinite */
    const __m512 square = _mm512_mul_ps(v, v), square_low = _mm512_fmsub_ps(v, v, square);
    const __m512 cube = _mm512_mul_ps(b, square), cube_low = _mm512_fmsub_ps(b, square, cube);
    const __m512 sum = _mm512_add_ps(cube, a), part = _mm512_sub_ps(sum, cube);
    __m512 low = _mm512_add_ps(_mm512_sub_ps(cube, _mm512_sub_ps(sum, part)), _mm512_sub_ps(a, part));
    low = _mm512_add_ps(low, _mm512_add_ps(cube_low, a_low));
    low = _mm512_fmadd_ps(b, square_low, _mm512_fmadd_ps(b_low, square, low));
    const __m512 t = _mm512_mul_ps(v, sum);
    return times_sigmoid(x, t, _mm512_fmadd_ps(v, low, _mm512_fmsub_ps(v, sum, t)));
}

/* 0.5x(1 + erf(x/√2)) = x·(1 − h) for x >= 0, x·h below, h = erfc(z)/2, z = |x|/√2.
 * erfc(z)·e^z² = t·P(t), t = 1/(1 + z/2), within 5e-9 for z in [0, 10.2]; e^−z² from x², its rounding taken back. */
INLINE __m512 gelu_erf(__m512 x) {
    const __m512 a = _mm512_abs_ps(x);
    const __m512 t = _mm512_div_ps(SET(1.0f), _mm512_fmadd_ps(a, SET(0.3535533906f), SET(1.0f)));
    __m512 p = SET(3.284751870e-02f);
    p = _mm512_fmadd_ps(p, t, SET(-1.743304699e-01f));
    p = _mm512_fmadd_ps(p, t, SET(3.396997220e-01f));
    p = _mm512_fmadd_ps(p, t, SET(-2.298398287e-01f));
    p = _mm512_fmadd_ps(p, t, SET(-7.614742277e-02f));
    p = _mm512_fmadd_ps(p, t, SET(6.782220232e-02f));
    p = _mm512_fmadd_ps(p, t, SET(4.196061376e-02f));
    p = _mm512_fmadd_ps(p, t, SET(1.889712124e-01f));
    p = _mm512_fmadd_ps(p, t, SET(2.446264745e-01f));
    p = _mm512_fmadd_ps(p, t, SET(2.823034821e-01f));
    p = _mm512_fmadd_ps(p, t, SET(2.820864977e-01f));
    const __m512 bounded = _mm512_min_ps(SET(20.0f), a); /* e^−200 is 0; keeps ∞ − ∞ away */
    const __m512 square = _mm512_mul_ps(bounded, bounded);
    const __m512 lost = _mm512_fmsub_ps(bounded, bounded, square);
    const __m512 e = exp_16(_mm512_mul_ps(square, SET(-0.5f)));
    const __m512 exact = _mm512_fmadd_ps(_mm512_mul_ps(lost, SET(-0.5f)), e, e);
    const __m512 h = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(p, t), exact), SET(0.5f));
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    return _mm512_mul_ps(x, _mm512_mask_blend_ps(negative, _mm512_sub_ps(SET(1.0f), h), h));
}

INLINE __m512 activate(int activation, __m512 x) {
    switch (activation) {
    case GEMM_GELU_TANH: return gelu_tanh(x);
    case GEMM_GELU_ERF: return gelu_erf(x);
    case GEMM_SILU: return times_sigmoid(x, x, _mm512_setzero_ps());
    case GEMM_RELU: return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), _mm512_setzero_ps());
    }
    return x;
}

INLINE void store_16(float *y, __m512 v, __mmask16 mask, int add) {
    if (add) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), v);
    _mm512_mask_storeu_ps(y, mask, v);
}

INLINE __mmask16 mask_of(int64_t n) { return n >= 16 ? 0xffff : n > 0 ? (__mmask16)((1u << n) - 1) : 0; }

INLINE void finish(const int activation, const gemm_output *o, const float *sums, int rows, int64_t row, int64_t panel) {
    const __m512 zero = _mm512_setzero_ps();
    const float *const bias = o->bias ? o->bias + panel * GEMM_PANEL : NULL;
    const __m512 b0 = bias ? _mm512_loadu_ps(bias) : zero, b1 = bias ? _mm512_loadu_ps(bias + 16) : zero;
    const int64_t column = panel * (o->gated ? GEMM_PANEL / 2 : GEMM_PANEL);
    const __mmask16 m0 = mask_of(o->columns - column), m1 = mask_of(o->columns - column - 16);
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL) {
        __m512 v0 = _mm512_load_ps(sums), v1 = _mm512_load_ps(sums + 16);
        if (bias) v0 = _mm512_add_ps(v0, b0), v1 = _mm512_add_ps(v1, b1);
        float *const y = o->y + (row + r) * o->stride + column;
        v0 = activate(activation, v0);
        if (o->gated) {
            store_16(y, _mm512_mul_ps(v0, v1), m0, o->add);
            continue;
        }
        store_16(y, v0, m0, o->add);
        if (m1) store_16(y + 16, activate(activation, v1), m1, o->add);
    }
}

TARGET void gemm_finish_avx512(const gemm_output *o, float *sums, int rows, int64_t row, int64_t panel) {
    switch (o->activation) {
    case GEMM_IDENTITY: finish(GEMM_IDENTITY, o, sums, rows, row, panel); break;
    case GEMM_GELU_TANH: finish(GEMM_GELU_TANH, o, sums, rows, row, panel); break;
    case GEMM_GELU_ERF: finish(GEMM_GELU_ERF, o, sums, rows, row, panel); break;
    case GEMM_SILU: finish(GEMM_SILU, o, sums, rows, row, panel); break;
    case GEMM_RELU: finish(GEMM_RELU, o, sums, rows, row, panel); break;
    }
}
#endif
