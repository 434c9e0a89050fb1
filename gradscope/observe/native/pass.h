/* One pass, for the processor that PASS, WIDTH (bytes of a vector), TARGET and LESSER/GREATER describe.
 * Included by pass.c once for each. bfloat16 and float16 are widened to float32 on the stack, a block at
 * a time, and changes are taken to float64 there: both then go the way of those types. */

#define ELEMENT float
#define INTEGER int32_t
#define INFINITE INT32_C(0x7f800000)
#define MAGNITUDE INT32_C(0x7fffffff)
#define PARTS 2
#include "element.h"

#define ELEMENT double
#define INTEGER int64_t
#define INFINITE INT64_C(0x7ff0000000000000)
#define MAGNITUDE INT64_C(0x7fffffffffffffff)
#define PARTS 1
#include "element.h"

#define NUMBER float32
#define BITS uint32_t
#define INFINITE UINT32_C(0x7f800000)
#define MAGNITUDE UINT32_C(0x7fffffff)
#define FRACTION 23
#define LEAST (127 + LEAST_EXPONENT)
#include "exponents.h"

#define NUMBER float64
#define BITS uint64_t
#define INFINITE UINT64_C(0x7ff0000000000000)
#define MAGNITUDE UINT64_C(0x7fffffffffffffff)
#define FRACTION 52
#define LEAST (1023 + LEAST_EXPONENT)
#include "exponents.h"

#ifndef GRADSCOPE_BLOCKS
#define GRADSCOPE_BLOCKS

/* What memory may hold at any address. */
typedef uint16_t LooseHalf __attribute__((aligned(1), may_alias));
typedef float LooseFloat __attribute__((aligned(1), may_alias));
typedef double LooseDouble __attribute__((aligned(1), may_alias));
typedef uint32_t AnyBits __attribute__((may_alias));

/* The bits of the least normal magnitude of each dtype, in the type that it is widened to. */
static const uint32_t least_normal_float[] = {
    [FLOAT32] = 0x00800000, [BFLOAT16] = 0x00800000, [FLOAT16] = 0x38800000};
static const uint64_t least_normal_change[] = {
    [FLOAT32] = UINT64_C(0x3810000000000000),
    [FLOAT64] = UINT64_C(0x0010000000000000),
    [BFLOAT16] = UINT64_C(0x3810000000000000),
    [FLOAT16] = UINT64_C(0x3810000000000000)};

static const Record empty_record = {.calls = 1, .min = INFINITY, .max = -INFINITY};

static size_t size_of(Dtype dtype)
{
    return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2;
}
#endif

/* Widen n elements of bfloat16 or float16 to float32. */
TARGET static void GLUE(widen, PASS)(const char *data, size_t n, Dtype dtype, float *out)
{
    const LooseHalf *narrow = (const LooseHalf *)data;
    AnyBits *wide = (AnyBits *)out;
    if (dtype == BFLOAT16) {
        for (size_t i = 0; i < n; i++) {
            wide[i] = (uint32_t)narrow[i] << 16;
        }
        return;
    }
    for (size_t i = 0; i < n; i++) { /* first as if it were subnormal: exact, whatever is flushed */
        out[i] = (float)(int32_t)(narrow[i] & 0x7fffu) * 0x1p-24f;
    }
    for (size_t i = 0; i < n; i++) {
        const uint32_t magnitude = narrow[i] & 0x7fffu;
        const uint32_t is_normal = -(uint32_t)(magnitude >= 0x0400u);
        const uint32_t is_extreme = -(uint32_t)(magnitude >= 0x7c00u);
        const uint32_t normal = (magnitude << 13) + (112u << 23) + (is_extreme & (112u << 23));
        wide[i] = (normal & is_normal) | (wide[i] & ~is_normal) | (uint32_t)(narrow[i] & 0x8000u) << 16;
    }
}

TARGET static void GLUE(subtract, PASS)(const char *now, const char *before, size_t n, Dtype dtype,
                                        double *out)
{
    if (dtype == FLOAT64) {
        const LooseDouble *a = (const LooseDouble *)now, *b = (const LooseDouble *)before;
        for (size_t i = 0; i < n; i++) {
            out[i] = a[i] - b[i];
        }
        return;
    }
    float wide[2][STAGED_BLOCK];
    if (dtype != FLOAT32) {
        GLUE(widen, PASS)(now, n, dtype, wide[0]);
        GLUE(widen, PASS)(before, n, dtype, wide[1]);
        now = (const char *)wide[0];
        before = (const char *)wide[1];
    }
    const LooseFloat *a = (const LooseFloat *)now, *b = (const LooseFloat *)before;
    for (size_t i = 0; i < n; i++) {
        out[i] = (double)a[i] - (double)b[i];
    }
}

TARGET static void GLUE(reduce, PASS)(const char *data, size_t n, Dtype dtype, uint64_t *bins, Record *out)
{
    const size_t size = size_of(dtype), most = size > 2 ? DIRECT_BLOCK : STAGED_BLOCK;
    Tally tally;
    *out = empty_record;
    out->count = (double)n;
    if (bins != NULL) {
        memset(&tally, 0, sizeof tally);
    }
    for (size_t done = 0; done < n; done += most) {
        const size_t m = n - done < most ? n - done : most;
        const char *block = data + done * size;
        if (dtype == FLOAT64) {
            GLUE(add_double, PASS)(block, m, out);
            if (bins != NULL) {
                GLUE(tally_float64, PASS)(block, m, least_normal_change[dtype], &tally, out);
            }
            continue;
        }
        float wide[STAGED_BLOCK];
        if (dtype != FLOAT32) {
            GLUE(widen, PASS)(block, m, dtype, wide);
            block = (const char *)wide;
        }
        GLUE(add_float, PASS)(block, m, out);
        if (bins != NULL) {
            GLUE(tally_float32, PASS)(block, m, least_normal_float[dtype], &tally, out);
        }
    }
    if (bins != NULL) {
        add_tally(&tally, bins);
    }
}

TARGET static void GLUE(reduce_change, PASS)(const char *now, const char *before, size_t n, Dtype dtype,
                                             uint64_t *bins, Record *out)
{
    const size_t size = size_of(dtype);
    Tally tally;
    *out = empty_record;
    out->count = (double)n;
    if (bins != NULL) {
        memset(&tally, 0, sizeof tally);
    }
    for (size_t done = 0; done < n; done += STAGED_BLOCK) {
        const size_t m = n - done < STAGED_BLOCK ? n - done : STAGED_BLOCK;
        const char *a = now + done * size, *b = before + done * size;
        size_t at = 0;
        if (bins == NULL && dtype == FLOAT32) {
            at = GLUE(add_finite_change_float, PASS)(a, b, m, out);
        } else if (bins == NULL && dtype == FLOAT64) {
            at = GLUE(add_finite_change_double, PASS)(a, b, m, out);
        }
        double change[STAGED_BLOCK];
        GLUE(subtract, PASS)(a + at * size, b + at * size, m - at, dtype, change);
        GLUE(add_double, PASS)((const char *)change, m - at, out);
        if (bins != NULL) {
            GLUE(tally_float64, PASS)((const char *)change, m, least_normal_change[dtype], &tally, out);
        }
    }
    if (bins != NULL) {
        add_tally(&tally, bins);
    }
}

/* An element is finite unless all bits of its exponent are set. A block is read to its end before anything
 * is asked, so that the loop inside is one of vectors. */
#define IS_FINITE(bits, type, exponent)                                                                   \
    TARGET static int GLUE(is_finite_##bits, PASS)(const char *data, size_t n)                            \
    {                                                                                                     \
        const type##_in_memory *x = (const type##_in_memory *)data;                                       \
        for (size_t done = 0; done < n; done += FINITE_BLOCK) {                                           \
            const size_t end = n - done < FINITE_BLOCK ? n : done + FINITE_BLOCK;                         \
            type found = 0;                                                                               \
            for (size_t i = done; i < end; i++) {                                                         \
                found |= (type)-((x[i] & (type)(exponent)) == (type)(exponent));                          \
            }                                                                                             \
            if (found) {                                                                                  \
                return 0;                                                                                 \
            }                                                                                             \
        }                                                                                                 \
        return 1;                                                                                         \
    }
IS_FINITE(float32, uint32_t, 0x7f800000u)
IS_FINITE(float64, uint64_t, 0x7ff0000000000000u)
IS_FINITE(bfloat16, uint16_t, 0x7f80u)
IS_FINITE(float16, uint16_t, 0x7c00u)
#undef IS_FINITE

TARGET static int GLUE(is_finite, PASS)(const char *data, size_t n, Dtype dtype)
{
    switch (dtype) {
    case FLOAT64:
        return GLUE(is_finite_float64, PASS)(data, n);
    case BFLOAT16:
        return GLUE(is_finite_bfloat16, PASS)(data, n);
    case FLOAT16:
        return GLUE(is_finite_float16, PASS)(data, n);
    default:
        return GLUE(is_finite_float32, PASS)(data, n);
    }
}

static const Pass GLUE(pass, PASS) = {PASS_NAME, GLUE(reduce, PASS), GLUE(reduce_change, PASS),
                                      GLUE(is_finite, PASS)};
