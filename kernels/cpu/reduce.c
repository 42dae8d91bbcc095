/* y[t] = Σ_p parts[p·rows + t], or y +=: the partial results of a linear op whose inputs are cut.
 * Shapes  y [rows, cols], parts [count·rows, cols], count < 2^LEVELS.
 * Order   a tree of neighbours: the sum of the last 2^l parts waits in level[l] where bit l of the number of parts so
 *         far is set, as in a binary counter. Elements are independent, so that tails need no care.
 * Memory  count+1 rows a row. Checked by optest.Reduce against reduce.go. */
#if defined(LEVEL)

static void reduce_rows(const reduce_args *a, int64_t from, int64_t to) {
    enum { CHUNK = 64, LEVELS = 7 };
    float level[LEVELS][CHUNK], sum[CHUNK];
    for (int64_t t = from; t < to; t++) {
        float *const y = a->y + t * a->y_stride;
        for (int64_t at = 0; at < a->cols; at += CHUNK) {
            const int64_t n = a->cols - at < CHUNK ? a->cols - at : CHUNK;
            for (int64_t p = 0; p < a->count; p++) {
                const float *const x = a->parts + (p * a->rows + t) * a->parts_stride + at;
                int l = 0;
                for (int64_t i = 0; i < n; i++) sum[i] = x[i];
                for (; p >> l & 1; l++)
                    for (int64_t i = 0; i < n; i++) sum[i] = level[l][i] + sum[i];
                for (int64_t i = 0; i < n; i++) level[l][i] = sum[i];
            }
            int l = 0;
            while (!(a->count >> l & 1)) l++;
            for (int64_t i = 0; i < n; i++) sum[i] = level[l][i];
            for (l++; a->count >> l; l++)
                if (a->count >> l & 1)
                    for (int64_t i = 0; i < n; i++) sum[i] = level[l][i] + sum[i];
            if (a->add)
                for (int64_t i = 0; i < n; i++) y[at + i] += sum[i];
            else
                for (int64_t i = 0; i < n; i++) y[at + i] = sum[i];
        }
    }
}

#endif
