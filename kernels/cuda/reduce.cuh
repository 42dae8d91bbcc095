// The sum of parts in a tree of neighbours, in float32: the sum of the last 2^l parts waits in level[l] where bit l of the number of
// parts so far is set, as in a binary counter.
#pragma once
#include "common.cuh"

// 8 values of each of so many parts, fewer than 2^LEVELS; load(v, p) gets those of part p.
template <int LEVELS, class Load> inline void reduce8(float (&sum)[8], int count, const Load& load) {
    float level[LEVELS][8];
    for (int p = 0; p < count; p++) {
        load(sum, p);
#pragma unroll
        for (int l = 0; l < LEVELS; l++) { // registers are named, not indexed: all levels are passed
            const int below = (1 << l) - 1;
            if ((p & below) != below) continue;
            const bool full = p >> l & 1;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (full) sum[j] = level[l][j] + sum[j];
                else level[l][j] = sum[j];
            }
        }
    }
    bool some = false;
#pragma unroll
    for (int l = 0; l < LEVELS; l++) {
        if (!(count >> l & 1)) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] = some ? level[l][j] + sum[j] : level[l][j];
        some = true;
    }
}

// y = sum, or y += sum, rounded once: n of 8 values.
template <class T> void store_sum(T* y, float (&sum)[8], int n, bool add) {
    if (add) {
        float old[8];
        load8(old, y, n);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] = old[j] + sum[j];
    }
    store8(y, sum, n);
}
