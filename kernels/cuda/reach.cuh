// What kernels of several GPUs share that write each other's memory: writes that the others see, and waiting for them.
#pragma once
#include "common.cuh"

inline void fence_system() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
inline void release(u64* p, u64 v) { asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory"); }
inline u64 acquire(const u64* p) {
    u64 v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
inline u64 nanoseconds() {
    u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

// Waits until another rank has written a number or a later one. False: it has not for so long.
inline bool comes(const u64* word, u64 number, i64 patience) {
    const u64 begin = nanoseconds();
    while (acquire(word) < number) {
        if ((i64)(nanoseconds() - begin) > patience) return false;
        __nanosleep(20);
    }
    return true;
}
