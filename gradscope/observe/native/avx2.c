/* The pass for x86-64 processors with AVX2, FMA and F16C: most since 2013. */

#include "record.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define WIDTH 32
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LESSER_float(a, b) ((__typeof__(a))_mm256_min_ps((__m256)(a), (__m256)(b)))
#define GREATER_float(a, b) ((__typeof__(a))_mm256_max_ps((__m256)(a), (__m256)(b)))
#define LESSER_double(a, b) ((__typeof__(a))_mm256_min_pd((__m256d)(a), (__m256d)(b)))
#define GREATER_double(a, b) ((__typeof__(a))_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define HALF_AT(here) _mm_loadu_si128((const __m128i *)(here))
#define LOAD_BFLOAT16(here) ((floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(HALF_AT(here)), 16))
#define LOAD_FLOAT16(here) ((floats)_mm256_cvtph_ps(HALF_AT(here)))
#define PART_AT(here, k) ((doubles)_mm256_cvtps_pd(_mm_loadu_ps((const float *)(here) + 4 * (k))))
#define HALF_OF(x, k) \
    ((k) ? _mm256_extractf128_ps((__m256)(x), 1) : _mm256_castps256_ps128((__m256)(x)))
#define PART_OF(x, k) ((doubles)_mm256_cvtps_pd(HALF_OF(x, k)))
#include "pass.h"

static int is_able(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
           && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C); /* a name that older compilers do not know */
}

const Pass pass_avx2 = {"avx2", is_able, reduce, reduce_change, is_finite};
#else
static int is_able(void)
{
    return 0;
}

const Pass pass_avx2 = {"avx2", is_able, NULL, NULL, NULL};
#endif
