/* The pass for AArch64, whose processors all have these instructions. */

#include "record.h"

#if defined(__aarch64__) && !defined(__AARCH64EB__)
#include <arm_neon.h>

#define WIDTH 16
#define TARGET
#define LESSER_float(a, b) ((__typeof__(a))vminnmq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define GREATER_float(a, b) ((__typeof__(a))vmaxnmq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define LESSER_double(a, b) ((__typeof__(a))vminnmq_f64((float64x2_t)(a), (float64x2_t)(b)))
#define GREATER_double(a, b) ((__typeof__(a))vmaxnmq_f64((float64x2_t)(a), (float64x2_t)(b)))
#define HALF_AT(here) vreinterpret_u16_u8(vld1_u8((const uint8_t *)(here)))
#define LOAD_BFLOAT16(here) ((floats)vshll_n_u16(HALF_AT(here), 16))
#define LOAD_FLOAT16(here) ((floats)vcvt_f32_f16(vreinterpret_f16_u16(HALF_AT(here))))
#define PAIR_AT(here, k) vreinterpret_f32_u8(vld1_u8((const uint8_t *)(here) + 8 * (k)))
#define PART_AT(here, k) ((doubles)vcvt_f64_f32(PAIR_AT(here, k)))
#define PART_OF(x, k) \
    ((doubles)((k) ? vcvt_high_f64_f32((float32x4_t)(x)) : vcvt_f64_f32(vget_low_f32((float32x4_t)(x)))))
#define SWAP_HALVES(z) ((Lanes64)vrev64q_u32((uint32x4_t)(z)))
#define MULTIPLY_LOWER(a, b) ((Lanes64)vmull_u32(vmovn_u64((uint64x2_t)(a)), vmovn_u64((uint64x2_t)(b))))
#include "pass.h"

static int is_able(void)
{
    return 1;
}

const Pass pass_neon = {"neon", is_able, reduce, reduce_change, is_finite, digest};
#else
static int is_able(void)
{
    return 0;
}

const Pass pass_neon = {"neon", is_able, NULL, NULL, NULL, NULL};
#endif
