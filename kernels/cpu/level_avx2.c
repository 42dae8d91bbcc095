/* AVX2, FMA and F16C: vectors of eight floats. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#define LEVEL kernels_avx2
#define LEVEL_AVX2
#include "level.h"
#else
typedef int nothing_here;
#endif
