/* Any CPU: the compiler's vectors of four floats (SSE2, NEON); products and sums rounded apart. */
#define LEVEL kernels_generic
#include "level.h"
