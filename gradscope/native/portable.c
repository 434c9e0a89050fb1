/* The pass for any processor, in vectors of 16 bytes. SSE2 and NEON have such vectors; for other processors the
 * compiler splits them. */

#include "record.h"

#define WIDTH 16
#define TARGET
#define CHOOSE(is, a, b) ((__typeof__(a))(((__typeof__(is))(a) & (is)) | ((__typeof__(is))(b) & ~(is))))
#define LESSER_float(a, b) CHOOSE((a) < (b), a, b)
#define GREATER_float(a, b) CHOOSE((a) > (b), a, b)
#define LESSER_double(a, b) CHOOSE((a) < (b), a, b)
#define GREATER_double(a, b) CHOOSE((a) > (b), a, b)
#define LOAD_BFLOAT16(here) widen_bfloat16(here)
#define LOAD_FLOAT16(here) widen_float16(here)
#define PART_AT(here, k) __builtin_convertvector(((const loose_pair *)(here))[k], doubles)
#define PART_OF(x, k) __builtin_convertvector(((const loose_pair *)&(x))[k], doubles)

typedef float widened __attribute__((vector_size(WIDTH)));
typedef uint32_t words __attribute__((vector_size(WIDTH)));
typedef int32_t integers __attribute__((vector_size(WIDTH)));
typedef uint16_t loose_halves __attribute__((vector_size(WIDTH / 2), aligned(1), may_alias));
typedef float loose_pair __attribute__((vector_size(WIDTH / 2), aligned(1), may_alias));

static inline widened widen_bfloat16(const void *here)
{
    return (widened)(__builtin_convertvector(*(const loose_halves *)here, words) << 16);
}

static inline widened widen_float16(const void *here)
{
    const words half = __builtin_convertvector(*(const loose_halves *)here, words);
    const words magnitude = half & 0x7fff, sign = (half & 0x8000) << 16;
    /* as if it were subnormal: exact, whatever is flushed */
    const words small = (words)(__builtin_convertvector((integers)magnitude, widened) * 0x1p-24f);
    const words is_normal = (words)(magnitude >= 0x0400), is_extreme = (words)(magnitude >= 0x7c00);
    const words normal = (magnitude << 13) + (112u << 23) + (is_extreme & (112u << 23));
    return (widened)(CHOOSE(is_normal, normal, small) | sign);
}

#include "pass.h"

static int is_able(void)
{
    return 1;
}

const Pass pass_portable = {"portable", is_able, reduce, reduce_change, is_finite, digest};
