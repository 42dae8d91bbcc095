/* Calls the functions of a level. */
#include "cpu.h"

static const kernel_set *set_of(int level) {
#if defined(__x86_64__)
    if (level == CPU_AVX512) return &kernels_avx512;
    if (level == CPU_AVX2) return &kernels_avx2;
#endif
    (void)level;
    return &kernels_generic;
}

void cpu_norm(int level, norm_args a, int64_t from, int64_t to) { set_of(level)->norm(&a, from, to); }

void cpu_convert(int level, convert_args a, int64_t from, int64_t to) { set_of(level)->convert(&a, from, to); }

void cpu_embed(int level, embed_args a, int64_t from, int64_t to) { set_of(level)->embed(&a, from, to); }

void cpu_store(int level, store_args a, int64_t from, int64_t to) { set_of(level)->store(&a, from, to); }

void cpu_combine(int level, combine_args a, int64_t from, int64_t to) { set_of(level)->combine(&a, from, to); }

void cpu_mix(int level, mix_args a, int64_t from, int64_t to) { set_of(level)->mix(&a, from, to); }

void cpu_add(int level, add_args a, int64_t from, int64_t to) { set_of(level)->add(&a, from, to); }

void cpu_reduce(int level, reduce_args a, int64_t from, int64_t to) { set_of(level)->reduce(&a, from, to); }

void cpu_score(int level, score_args a, int64_t from, int64_t to) { set_of(level)->score(&a, from, to); }

void cpu_attention(int level, attention_args a, const attention_item *items, int64_t n, float *scratch) {
    for (int64_t i = 0; i < n; i++) set_of(level)->attend(&a, items + i, i + 1 < n ? items + i + 1 : NULL, scratch);
}

void cpu_gate(int level, gate_args a, int64_t from, int64_t to, int32_t *key) { set_of(level)->gate(&a, from, to, key); }

int64_t cpu_log_sum(int level, const float *x, int64_t n, double *result) {
    return set_of(level)->log_sum(x, n, result, NULL);
}

double cpu_token_weights(int level, float *dst, const float *x, int64_t n, float top, float temperature) {
    return set_of(level)->token_weights(dst, x, n, top, temperature);
}

int64_t cpu_next_above(int level, const float *x, int64_t from, int64_t n, float bound) {
    return set_of(level)->next_above(x, from, n, bound);
}

void cpu_masses_above(int level, const float *w, int64_t n, const float *bound, double *mass, int64_t *count) {
    set_of(level)->masses_above(w, n, bound, mass, count);
}

int64_t cpu_weights_between(int level, float *to, int32_t *to_id, const float *w, const int32_t *id, int64_t n, float low, float high) {
    return set_of(level)->weights_between(to, to_id, w, id, n, low, high);
}
