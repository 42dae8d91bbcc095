/* Loops that do nothing but what a kernel can at best do: products from registers, reads from memory. */
#include "cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma")))
#define REPEAT_12(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)

/* Twelve independent sums, enough for two units of latency 5; as text, so that none is optimised away. */
#define DEFINE_PEAK(name, target, vector, instruction)                                                                 \
    target static void name(int64_t n) {                                                                               \
        vector s[12] = {0}, a = {0}, b = {0};                                                                          \
        for (int64_t i = 0; i < n; i++) { REPEAT_12(instruction) }                                                     \
    }
#define FMA(i) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(s[i]) : "v"(a), "v"(b));
#define BF16(i) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(s[i]) : "v"(a), "v"(b));
#define QUADS(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s[i]) : "v"(a), "v"(b));
#define WORDS(i) __asm__ volatile("vpmaddubsw %2, %1, %%ymm15\n vpaddd %%ymm15, %0, %0" : "+x"(s[i]) : "x"(a), "x"(b) : "xmm15");
DEFINE_PEAK(fma_256, TARGET_AVX2, __m256, FMA)
DEFINE_PEAK(fma_512, TARGET_AVX512, __m512, FMA)
DEFINE_PEAK(bf16_512, TARGET_AVX512, __m512, BF16)
DEFINE_PEAK(quads_512, TARGET_AVX512, __m512i, QUADS)
DEFINE_PEAK(words_256, TARGET_AVX2, __m256i, WORDS)

double cpu_peak_products(int level, int type, int vnni, int64_t n) {
    if (level == GEMM_AMX && (type == GEMM_BF16 || type == GEMM_I8)) return gemm_amx_peak(type, n);
    if (level >= GEMM_AVX512BF16 && type == GEMM_BF16) return bf16_512(n), 12.0 * 32 * (double)n;
    if (level >= GEMM_AVX512 && type == GEMM_I8 && vnni) return quads_512(n), 12.0 * 64 * (double)n;
    if (level >= GEMM_AVX2 && type == GEMM_I8) return words_256(n), 12.0 * 32 * (double)n;
    if (level >= GEMM_AVX512) return fma_512(n), 12.0 * 16 * (double)n;
    if (level == GEMM_AVX2) return fma_256(n), 12.0 * 8 * (double)n;
    return 0;
}
#else
double cpu_peak_products(int level, int type, int vnni, int64_t n) {
    (void)level, (void)type, (void)vnni, (void)n;
    return 0;
}
#endif

#if defined(__x86_64__)
/* Whole lines a load, and the memory asked ahead: fewer loads in flight would be the limit, not the memory. */
#define READ(from, load, combine, size)                                                                                \
    for (int64_t i = 0; i < bytes; i += 256) {                                                                         \
        for (int line = 0; line < 256; line += 64) _mm_prefetch(from + i + 4096 + line, _MM_HINT_T0);                  \
        for (int at = 0; at < 256; at += (size)) s = combine(s, load((const void *)(from + i + at)));                  \
    }

TARGET_AVX512 static uint64_t read_512(const char *from, int64_t bytes) {
    __m512i s = _mm512_setzero_si512();
    READ(from, _mm512_load_si512, _mm512_xor_si512, 64)
    return (uint64_t)_mm512_reduce_add_epi64(s);
}

static uint64_t read_128(const char *from, int64_t bytes) {
    __m128i s = _mm_setzero_si128();
    READ(from, _mm_load_si128, _mm_xor_si128, 16)
    return (uint64_t)_mm_cvtsi128_si64(s);
}

uint64_t cpu_peak_read(int level, const void *from, int64_t bytes) {
    return level >= GEMM_AVX512 ? read_512(from, bytes) : read_128(from, bytes);
}
#else
uint64_t cpu_peak_read(int level, const void *from, int64_t bytes) {
    const uint64_t *const p = from;
    uint64_t s = 0;
    for (int64_t i = 0; i < bytes / 8; i++) s ^= p[i];
    return (void)level, s;
}
#endif
