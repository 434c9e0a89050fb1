/* The pass for x86-64 processors with AVX-512 F, BW, DQ and VL: servers since 2017, AMD's since 2022. */

#include "record.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 64
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,popcnt")))
#define LESSER_float(a, b) ((__typeof__(a))_mm512_min_ps((__m512)(a), (__m512)(b)))
#define GREATER_float(a, b) ((__typeof__(a))_mm512_max_ps((__m512)(a), (__m512)(b)))
#define LESSER_double(a, b) ((__typeof__(a))_mm512_min_pd((__m512d)(a), (__m512d)(b)))
#define GREATER_double(a, b) ((__typeof__(a))_mm512_max_pd((__m512d)(a), (__m512d)(b)))
#define HALF_AT(here) _mm256_loadu_si256((const __m256i *)(here))
#define LOAD_BFLOAT16(here) ((floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(HALF_AT(here)), 16))
#define LOAD_FLOAT16(here) ((floats)_mm512_cvtph_ps(HALF_AT(here)))
#define PART_AT(here, k) ((doubles)_mm512_cvtps_pd(_mm256_loadu_ps((const float *)(here) + 8 * (k))))
#define HALF_OF(x, k) ((k) ? _mm512_extractf32x8_ps((__m512)(x), 1) : _mm512_castps512_ps256((__m512)(x)))
#define PART_OF(x, k) ((doubles)_mm512_cvtps_pd(HALF_OF(x, k)))
#define PACK(a, b) ((bytes)_mm512_packus_epi16((__m512i)(a), (__m512i)(b)))
#define PACK_SIGNS(a, b) ((bytes)_mm512_packs_epi16((__m512i)(a), (__m512i)(b)))
#define LOOK_UP(table, x) ((bytes)_mm512_shuffle_epi8((__m512i)(table), (__m512i)(x)))
#define ADD_SATURATED(a, b) ((bytes)_mm512_adds_epu8((__m512i)(a), (__m512i)(b)))
#define LEAST16(a, b) ((words)_mm512_min_epu16((__m512i)(a), (__m512i)(b)))
#define LEAST32(a, b) ((Lanes32)_mm512_min_epu32((__m512i)(a), (__m512i)(b)))
#define HIGHEST_BITS(x) _mm512_movepi8_mask((__m512i)(x))
#define BITS_AT(x, place) _mm512_test_epi8_mask((__m512i)(x), _mm512_set1_epi8((char)(1 << (place))))
#define OF_THREE(a, b, c, truth) \
    ((bytes)_mm512_ternarylogic_epi64((__m512i)(a), (__m512i)(b), (__m512i)(c), truth))
#define SUM_OF_BITS(a, b, c) OF_THREE(a, b, c, 0x96)
#define CARRY_OF_BITS(a, b, c) OF_THREE(a, b, c, 0xe8)
#define TWO_WINDOWS_PAY 1
#define SWAP_HALVES(z) ((Lanes64)_mm512_shuffle_epi32((__m512i)(z), (_MM_PERM_ENUM)0xb1))
#define MULTIPLY_LOWER(a, b) ((Lanes64)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#define DOUBLE_FIRST(z) ((Lanes64)_mm512_moveldup_ps((__m512)(z)))
#define DOUBLE_SECOND(z) ((Lanes64)_mm512_movehdup_ps((__m512)(z)))
#include "pass.h"

static int is_able(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const Pass pass_avx512 = {"avx512", is_able, reduce, reduce_change, is_finite, digest};
#else
static int is_able(void)
{
    return 0;
}

const Pass pass_avx512 = {"avx512", is_able, NULL, NULL, NULL, NULL};
#endif
