/* dst = src among float32, bfloat16 and float16, rounded to nearest even; and embedding: rows of a table, widened, plus
 * rows of another. Elements are independent, so that tails need no care.
 * Checked by optest.Copy and optest.Embed. */
#if defined(LEVEL)
#include "vector.h"

INLINE uint32_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

INLINE float of_bits(uint32_t b) {
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

INLINE uint16_t to_bf16(float x) {
    const uint32_t b = bits_of(x);
    const uint32_t nan = (b >> 16) | 0x40, rounded = (b + 0x7fff + (b >> 16 & 1)) >> 16;
    return (uint16_t)((b & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

INLINE float from_f16(uint16_t h) { /* as fromF16 of float.go */
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, fraction = h & 0x3ff;
    if (exponent == 0x1f) return of_bits(sign | (fraction ? 0x7fc00000 : 0x7f800000) | fraction << 13);
    if (exponent == 0) return of_bits(sign | bits_of((float)fraction * 0x1p-24f));
    return of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

INLINE uint16_t to_f16(float x) { /* as toF16 of float.go */
    uint32_t b = bits_of(x);
    const uint16_t sign = b >> 16 & 0x8000;
    b &= 0x7fffffff;
    if (b > 0x7f800000) return sign | 0x7e00 | (b >> 13 & 0x1ff);
    if (b >= 0x47800000) return sign | 0x7c00;
    if (b < 0x38800000) return sign | (uint16_t)(bits_of(of_bits(b) + 0.5f) - 0x3f000000);
    return sign | (uint16_t)((b - 0x38000000 + 0xfff + (b >> 13 & 1)) >> 13);
}

INLINE void widen(float *dst, const void *src, int type, int64_t n) {
    const uint16_t *h = src;
    int64_t i = 0;
    switch (type) {
    case CPU_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        break;
    case CPU_BF16:
        for (; i + LANES <= n; i += LANES) vec_store(dst + i, vec_bf16(h + i));
        for (; i < n; i++) dst[i] = of_bits((uint32_t)h[i] << 16);
        break;
    case CPU_F16:
#if defined(LEVEL_AVX2) || defined(LEVEL_AVX512)
        for (; i + LANES <= n; i += LANES) vec_store(dst + i, vec_f16(h + i));
#endif
        for (; i < n; i++) dst[i] = from_f16(h[i]);
    }
}

INLINE void narrow(void *dst, const float *src, int type, int64_t n) {
    uint16_t *h = dst;
    int64_t i = 0;
    switch (type) {
    case CPU_F32:
        memcpy(dst, src, (size_t)n * sizeof *src);
        break;
    case CPU_BF16:
        for (; i < n; i++) h[i] = to_bf16(src[i]);
        break;
    case CPU_F16:
#if defined(LEVEL_AVX2) || defined(LEVEL_AVX512)
        for (; i + LANES <= n; i += LANES) vec_store_f16(h + i, vec_load(src + i));
#endif
        for (; i < n; i++) h[i] = to_f16(src[i]);
    }
}

INLINE int64_t size_of(int type) { return type == CPU_F32 ? 4 : 2; }

static void convert_rows(const convert_args *a, int64_t from, int64_t to) {
    float block[256];
    const int64_t d = size_of(a->dst_type), s = size_of(a->src_type);
    for (int64_t t = from; t < to; t++) {
        char *const dst = (char *)a->dst + t * a->dst_stride * d;
        const char *const src = (const char *)a->src + t * a->src_stride * s;
        for (int64_t i = 0; i < a->cols; i += 256) {
            const int64_t n = a->cols - i < 256 ? a->cols - i : 256;
            widen(block, src + i * s, a->src_type, n);
            narrow(dst + i * d, block, a->dst_type, n);
        }
    }
}

static void embed_rows(const embed_args *a, int64_t from, int64_t to) {
    float block[256];
    const int64_t size = size_of(a->table_type), size_p = size_of(a->positions_type);
    for (int64_t t = from; t < to; t++) {
        float *const y = a->y + t * a->y_stride;
        widen(y, (const char *)a->table + a->ids[t] * a->table_stride * size, a->table_type, a->cols);
        if (!a->positions) continue;
        const char *const p = (const char *)a->positions + a->pos[t] * a->positions_stride * size_p;
        for (int64_t i = 0; i < a->cols; i += 256) {
            const int64_t n = a->cols - i < 256 ? a->cols - i : 256;
            widen(block, p + i * size_p, a->positions_type, n);
            for (int64_t j = 0; j < n; j++) y[i + j] += block[j];
        }
    }
}

#endif
