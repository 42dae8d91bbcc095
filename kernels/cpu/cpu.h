/* Every C function that Go may call. C takes pointers and sizes, keeps no pointer and never calls back; the memory
 * that it allocates has a _new or _alloc and a _free. Sizes and strides count elements unless they say bytes. */
#ifndef DSBATCH_CPU_H
#define DSBATCH_CPU_H

#include <stddef.h>
#include <stdint.h>

/* features.c */
uint32_t cpu_features(void);

#endif
