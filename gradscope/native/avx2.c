/* The pass for x86-64 processors with AVX2, FMA and F16C: most since 2013. */

#include "record.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define WIDTH 32
#define TARGET __attribute__((target("avx2,fma,f16c,popcnt")))
#define LESSER_float(a, b) ((__typeof__(a))_mm256_min_ps((__m256)(a), (__m256)(b)))
#define GREATER_float(a, b) ((__typeof__(a))_mm256_max_ps((__m256)(a), (__m256)(b)))
#define LESSER_double(a, b) ((__typeof__(a))_mm256_min_pd((__m256d)(a), (__m256d)(b)))
#define GREATER_double(a, b) ((__typeof__(a))_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define HALF_AT(here) _mm_loadu_si128((const __m128i *)(here))
#define LOAD_BFLOAT16(here) ((floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(HALF_AT(here)), 16))
#define LOAD_FLOAT16(here) ((floats)_mm256_cvtph_ps(HALF_AT(here)))
#define PART_AT(here, k) ((doubles)_mm256_cvtps_pd(_mm_loadu_ps((const float *)(here) + 4 * (k))))
#define HALF_OF(x, k) ((k) ? _mm256_extractf128_ps((__m256)(x), 1) : _mm256_castps256_ps128((__m256)(x)))
#define PART_OF(x, k) ((doubles)_mm256_cvtps_pd(HALF_OF(x, k)))
#define PACK(a, b) ((bytes)_mm256_packus_epi16((__m256i)(a), (__m256i)(b)))
#define PACK_SIGNS(a, b) ((bytes)_mm256_packs_epi16((__m256i)(a), (__m256i)(b)))
#define LOOK_UP(table, x) ((bytes)_mm256_shuffle_epi8((__m256i)(table), (__m256i)(x)))
#define ADD_SATURATED(a, b) ((bytes)_mm256_adds_epu8((__m256i)(a), (__m256i)(b)))
#define LEAST16(a, b) ((words)_mm256_min_epu16((__m256i)(a), (__m256i)(b)))
#define LEAST32(a, b) ((Lanes32)_mm256_min_epu32((__m256i)(a), (__m256i)(b)))
#define HIGHEST_BITS(x) (uint32_t)_mm256_movemask_epi8((__m256i)(x))
#define BITS_AT(x, place) HIGHEST_BITS(_mm256_slli_epi64((__m256i)(x), 7 - (place)))
#define SUM_OF_BITS(a, b, c) ((a) ^ (b) ^ (c))
#define CARRY_OF_BITS(a, b, c) (((a) & (b)) | (((a) ^ (b)) & (c)))
#define TWO_WINDOWS_PAY 0
#define SWAP_HALVES(z) ((Lanes64)_mm256_shuffle_epi32((__m256i)(z), 0xb1))
#define MULTIPLY_LOWER(a, b) ((Lanes64)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#define DOUBLE_FIRST(z) ((Lanes64)_mm256_moveldup_ps((__m256)(z)))
#define DOUBLE_SECOND(z) ((Lanes64)_mm256_movehdup_ps((__m256)(z)))
#include "pass.h"

static int is_able(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt")
           && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C); /* older compilers do not define this name */
}

const Pass pass_avx2 = {"avx2", is_able, reduce, reduce_change, is_finite, digest};
#else
static int is_able(void)
{
    return 0;
}

const Pass pass_avx2 = {"avx2", is_able, NULL, NULL, NULL, NULL};
#endif
