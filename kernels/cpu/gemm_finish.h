/* What becomes of a tile's sums: y = act(sum + bias), act(gate + bias)·(up + bias), or a clamped SwiGLU of both, and y +=
 * where asked.
 * gemm_finish_avx2.c and gemm_finish_avx512.c include this after saying what a vec of LANES floats is.
 *
 * Every lane goes through the same polynomials, ragged ends by mask, so an output's bits depend on its sum alone.
 * Activations are within 4 units in the last place of their exact value, down to 2⁻¹²⁰. */
#include "cpu.h"

/* e^x = 2^n · e^r, |r| <= ln2/2; overflows to infinity, underflows to 0; a NaN stays. */
INLINE vec exp_of(vec x) {
    const vec bounded = v_max(v_set(-150.0f), v_min(v_set(150.0f), x)); /* both give x where it is a NaN */
    const vec n = v_round(v_mul(bounded, v_set(0x1.715476p+0f)));
    vec r = v_fnma(n, v_set(0x1.62e4p-1f), bounded); /* ln2 in two parts, the first times n exact */
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vec q = v_set(1.392617612e-03f);
    q = v_fma(q, r, v_set(8.363173075e-03f));
    q = v_fma(q, r, v_set(4.166655466e-02f));
    q = v_fma(q, r, v_set(1.666657703e-01f));
    q = v_fma(q, r, v_set(5.000000000e-01f));
    const vec p = v_fma(v_mul(r, r), q, r);
    return v_scale(v_add(p, v_set(1.0f)), n);
}

/* x·sigmoid(t + low) = x/(1 + e^−t·(1 − low)), low what t lost by rounding. */
INLINE vec times_sigmoid(vec x, vec t, vec low) {
    const vec e = exp_of(v_negate(t)), finite = v_min(e, v_set(0x1.fffffep+127f));
    return v_div(x, v_add(v_set(1.0f), v_fnma(finite, low, e)));
}

/* 0.5x(1 + tanh u) = x·sigmoid(2u), 2u = x(a + b·x²), a = 2√(2/π), b = 0.044715·a. The exponent takes the absolute
 * error of 2u for a relative one, so 2u is computed to twice float32's digits: each line's rounding in the next. */
INLINE vec gelu_tanh(vec x) {
    const vec a = v_set(0x1.988454p+0f), a_low = v_set(-0x1.857936p-25f);
    const vec b = v_set(0x1.2444f2p-4f), b_low = v_set(0x1.49b16ap-29f);
    const vec v = v_max(v_set(-20.0f), v_min(v_set(20.0f), x)); /* e^±600 is 0 or infinite */
    const vec square = v_mul(v, v), square_low = v_fms(v, v, square);
    const vec cube = v_mul(b, square), cube_low = v_fms(b, square, cube);
    const vec sum = v_add(cube, a), part = v_sub(sum, cube);
    vec low = v_add(v_sub(cube, v_sub(sum, part)), v_sub(a, part));
    low = v_add(low, v_add(cube_low, a_low));
    low = v_fma(b, square_low, v_fma(b_low, square, low));
    const vec t = v_mul(v, sum);
    return times_sigmoid(x, t, v_fma(v, low, v_fms(v, sum, t)));
}

/* 0.5x(1 + erf(x/√2)) = x·(1 − h) for x >= 0, x·h below, h = erfc(z)/2, z = |x|/√2.
 * erfc(z)·e^z² = t·P(t), t = 1/(1 + z/2), within 5e-9 for z in [0, 10.2]; e^−z² from x², its rounding taken back. */
INLINE vec gelu_erf(vec x) {
    const vec a = v_abs(x);
    const vec t = v_div(v_set(1.0f), v_fma(a, v_set(0.3535533906f), v_set(1.0f)));
    vec p = v_set(3.284751870e-02f);
    p = v_fma(p, t, v_set(-1.743304699e-01f));
    p = v_fma(p, t, v_set(3.396997220e-01f));
    p = v_fma(p, t, v_set(-2.298398287e-01f));
    p = v_fma(p, t, v_set(-7.614742277e-02f));
    p = v_fma(p, t, v_set(6.782220232e-02f));
    p = v_fma(p, t, v_set(4.196061376e-02f));
    p = v_fma(p, t, v_set(1.889712124e-01f));
    p = v_fma(p, t, v_set(2.446264745e-01f));
    p = v_fma(p, t, v_set(2.823034821e-01f));
    p = v_fma(p, t, v_set(2.820864977e-01f));
    const vec bounded = v_min(v_set(20.0f), a); /* e^−200 is 0; keeps ∞ − ∞ away */
    const vec square = v_mul(bounded, bounded), lost = v_fms(bounded, bounded, square);
    const vec e = exp_of(v_mul(square, v_set(-0.5f)));
    const vec exact = v_fma(v_mul(lost, v_set(-0.5f)), e, e);
    const vec h = v_mul(v_mul(v_mul(p, t), exact), v_set(0.5f));
    return v_mul(x, v_where_negative(x, h, v_sub(v_set(1.0f), h)));
}

INLINE vec activate(int activation, vec x) {
    switch (activation) {
    case GEMM_GELU_TANH: return gelu_tanh(x);
    case GEMM_GELU_ERF: return gelu_erf(x);
    case GEMM_SILU: return times_sigmoid(x, x, v_set(0));
    case GEMM_RELU: return v_max(v_set(0), x); /* a NaN stays */
    }
    return x;
}

/* g·sigmoid(1.702·g)·(u + 1), g = min(gate, limit), u = up within ±limit. A NaN stays. */
INLINE vec clamped_swiglu(vec gate, vec up, float limit) {
    const vec a = v_set(1.702f), a_low = v_set((float)(1.702 - (double)1.702f));
    const vec g = v_min(v_set(limit), gate), u = v_max(v_set(-limit), v_min(v_set(limit), up));
    const vec v = v_max(v_set(-100.0f), g); /* e^170 is infinite */
    const vec t = v_mul(a, v);
    return v_mul(times_sigmoid(g, t, v_fma(v, a_low, v_fms(a, v, t))), v_add(u, v_set(1.0f)));
}

/* The first n of LANES outputs, n of any size. */
INLINE void store(float *y, vec v, int64_t n, int add) {
    if (n <= 0) return;
    if (add) v = v_add(v_load_first(y, n), v);
    v_store_first(y, v, n);
}

INLINE void finish(const int activation, const gemm_output *o, const float *sums, int rows, int64_t row, int64_t panel) {
    const int width = o->gated ? GEMM_PANEL / 2 : GEMM_PANEL;
    const float *const bias = o->bias ? o->bias + panel * GEMM_PANEL : NULL;
    float *y = o->y + row * o->stride + panel * width;
    for (int r = 0; r < rows; r++, sums += GEMM_PANEL, y += o->stride) {
        for (int c = 0; c < width; c += LANES) {
            vec v = v_load(sums + c);
            if (bias) v = v_add(v, v_load_first(bias + c, LANES));
            v = activate(activation, v);
            if (o->gated) {
                vec up = v_load(sums + width + c);
                if (bias) up = v_add(up, v_load_first(bias + width + c, LANES));
                v = activation == GEMM_CLAMPED_SWIGLU ? clamped_swiglu(v, up, o->limit) : v_mul(v, up);
            }
            store(y + c, v, o->columns - panel * width - c, o->add);
        }
    }
}

#define DEFINE_FINISH(name)                                                                                            \
    TARGET void name(const gemm_output *o, float *sums, int rows, int64_t row, int64_t panel) {                        \
        switch (o->activation) {                                                                                       \
        case GEMM_IDENTITY: finish(GEMM_IDENTITY, o, sums, rows, row, panel); break;                                   \
        case GEMM_GELU_TANH: finish(GEMM_GELU_TANH, o, sums, rows, row, panel); break;                                 \
        case GEMM_GELU_ERF: finish(GEMM_GELU_ERF, o, sums, rows, row, panel); break;                                   \
        case GEMM_SILU: finish(GEMM_SILU, o, sums, rows, row, panel); break;                                           \
        case GEMM_RELU: finish(GEMM_RELU, o, sums, rows, row, panel); break;                                           \
        case GEMM_CLAMPED_SWIGLU: finish(GEMM_CLAMPED_SWIGLU, o, sums, rows, row, panel); break;                       \
        }                                                                                                              \
    }
