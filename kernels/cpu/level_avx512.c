/* AVX-512 F, BW, DQ and VL: vectors of sixteen floats. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi")
#define LEVEL kernels_avx512
#define LEVEL_AVX512
#include "level.h"
#else
typedef int nothing_here;
#endif
