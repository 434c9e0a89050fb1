/* The passes for each kind of processor, from one text, and the choice among them.
 *
 * Zeros, subnormals, infinities and NaN are told apart by integer bits: a flush-to-zero mode, which other
 * libraries may have set, must not matter, and none is set here. Never compile this with -ffast-math.
 */

#include "record.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define GLUE_(a, b) a##_##b
#define GLUE(a, b) GLUE_(a, b)

typedef uint64_t __attribute__((may_alias)) uint64_t_in_memory;
typedef uint32_t __attribute__((may_alias)) uint32_t_in_memory;
typedef uint16_t __attribute__((may_alias)) uint16_t_in_memory;

enum {
    FINITE_BLOCK = 4096,
    DIRECT_BLOCK = 4096, /* elements read in place at a time: a block with a NaN in it is read twice */
    STAGED_BLOCK = 1024, /* elements widened on the stack at a time: 8 kB as float64 */
    TALLY_BLOCK = DIRECT_BLOCK,
    TALLY_TABLES = 8,
    NO_BIN = BINS,
};

typedef struct {
    uint64_t left; /* elements until 32 bits might not do */
    uint32_t tables[TALLY_TABLES][BINS + 8];
} Tally;

static void add_tally(const Tally *tally, uint64_t *bins)
{
    for (int i = 0; i < BINS; i++) {
        uint64_t sum = 0;
        for (int k = 0; k < TALLY_TABLES; k++) {
            sum += tally->tables[k][i];
        }
        bins[i] += sum;
    }
}

#if defined(__x86_64__)
#include <immintrin.h>
#define PASS avx2
#define PASS_NAME "avx2"
#define WIDTH 32
#define TARGET __attribute__((target("avx2,fma")))
#define LESSER_float(a, b) ((__typeof__(a))_mm256_min_ps((__m256)(a), (__m256)(b)))
#define GREATER_float(a, b) ((__typeof__(a))_mm256_max_ps((__m256)(a), (__m256)(b)))
#define LESSER_double(a, b) ((__typeof__(a))_mm256_min_pd((__m256d)(a), (__m256d)(b)))
#define GREATER_double(a, b) ((__typeof__(a))_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#include "pass.h"
#undef PASS
#undef PASS_NAME
#undef WIDTH
#undef TARGET
#undef LESSER_float
#undef GREATER_float
#undef LESSER_double
#undef GREATER_double
#endif

/* Vectors of 16 bytes are what SSE2 and NEON have; elsewhere the compiler takes them apart. */
#define CHOOSE(is, a, b) \
    ((__typeof__(a))(((__typeof__(is))(a) & (is)) | ((__typeof__(is))(b) & ~(is))))
#define PASS portable
#define PASS_NAME "portable"
#define WIDTH 16
#define TARGET
#define LESSER_float(a, b) CHOOSE((a) < (b), a, b)
#define GREATER_float(a, b) CHOOSE((a) > (b), a, b)
#define LESSER_double(a, b) CHOOSE((a) < (b), a, b)
#define GREATER_double(a, b) CHOOSE((a) > (b), a, b)
#include "pass.h"

static const Pass *const passes[] = {
#if defined(__x86_64__)
    &pass_avx2,
#endif
    &pass_portable,
};

static int is_able(const Pass *pass)
{
#if defined(__x86_64__)
    if (pass == &pass_avx2) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
#endif
    (void)pass;
    return 1;
}

const Pass *pass_number(int i)
{
    for (size_t k = 0; k < sizeof passes / sizeof passes[0]; k++) {
        if (is_able(passes[k]) && i-- == 0) {
            return passes[k];
        }
    }
    return NULL;
}

const Pass *choose_pass(void)
{
    return pass_number(0);
}
