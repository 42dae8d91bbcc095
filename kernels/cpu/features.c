/* What the CPU has and the system lets us use. The bits are those of features.go. */
#include "cpu.h"

enum { HAS_AVX2 = 2, HAS_AVX512 = 4, HAS_VNNI = 8, HAS_AVX512_BF16 = 16, HAS_AMX = 32, IS_AMD = 64 };

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t xcr0(void) { /* which registers the system saves at a context switch */
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* Linux gives a process the 8 KiB of tile state when it asks, once for all its threads. A refusal (an alternate
 * signal stack too small for it, an old kernel) only means that there are no tiles. */
static int tiles_granted(void) {
#if defined(EMULATED_TILES)
    return 1;
#elif defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

#define BIT(word, n) ((word) >> (n) & 1)

uint32_t cpu_features(void) {
    uint32_t a, b, c, d, has = 0;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return 0;
    if (b == signature_AMD_ebx && d == signature_AMD_edx && c == signature_AMD_ecx) has |= IS_AMD;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !BIT(c, 27)) return has; /* OSXSAVE */
    const int fma_f16c = BIT(c, 12) && BIT(c, 29);
    const uint64_t saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return has;
    const uint32_t leaves = a;
    if (!fma_f16c || !BIT(b, 5) || (saved & 0x6) != 0x6) return has;
    has |= HAS_AVX2;
    if (!BIT(b, 16) || !BIT(b, 17) || !BIT(b, 30) || !BIT(b, 31) || (saved & 0xe6) != 0xe6) return has; /* F DQ BW VL */
    has |= HAS_AVX512;
    if (BIT(c, 11)) has |= HAS_VNNI;
#if defined(EMULATED_TILES)
    const int tiles = 1; /* see tiles.h */
#else
    const int tiles = BIT(d, 22) && BIT(d, 24) && BIT(d, 25) && (saved & 0x60000) == 0x60000;
#endif
    if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && BIT(a, 5)) has |= HAS_AVX512_BF16;
    if (tiles && tiles_granted()) has |= HAS_AMX;
    return has;
}
#else
uint32_t cpu_features(void) { return 0; }
#endif
