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

#ifndef GRADSCOPE_BLOCKS
#define GRADSCOPE_BLOCKS
enum {
    DIRECT_BLOCK = 8192, /* elements read in place at a time: a block with a NaN in it is read twice */
    STAGED_BLOCK = 1024, /* elements widened on the stack at a time: 8 kB as float64 */
};

/* What memory may hold at any address. */
typedef uint16_t LooseHalf __attribute__((aligned(1), may_alias));
typedef float LooseFloat __attribute__((aligned(1), may_alias));
typedef double LooseDouble __attribute__((aligned(1), may_alias));
typedef uint32_t AnyBits __attribute__((may_alias));

/* The bits of the least normal magnitude of each dtype, in the type that it is widened to. */
static const int32_t least_normal_float[] = {
    [FLOAT32] = 0x00800000, [BFLOAT16] = 0x00800000, [FLOAT16] = 0x38800000};
static const int64_t least_normal_change[] = {
    [FLOAT32] = INT64_C(0x3810000000000000),
    [FLOAT64] = INT64_C(0x0010000000000000),
    [BFLOAT16] = INT64_C(0x3810000000000000),
    [FLOAT16] = INT64_C(0x3810000000000000)};

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

TARGET static void GLUE(reduce, PASS)(const char *data, size_t n, Dtype dtype, int is_full, Record *out)
{
    const size_t size = size_of(dtype), most = size > 2 ? DIRECT_BLOCK : STAGED_BLOCK;
    *out = empty_record;
    out->count = (double)n;
    for (size_t done = 0; done < n; done += most) {
        const size_t m = n - done < most ? n - done : most;
        const char *block = data + done * size;
        if (dtype == FLOAT64) {
            GLUE(add_double, PASS)(block, m, least_normal_change[dtype], is_full, out);
        } else if (dtype == FLOAT32) {
            GLUE(add_float, PASS)(block, m, least_normal_float[dtype], is_full, out);
        } else {
            float wide[STAGED_BLOCK];
            GLUE(widen, PASS)(block, m, dtype, wide);
            GLUE(add_float, PASS)((const char *)wide, m, least_normal_float[dtype], is_full, out);
        }
    }
}

TARGET static void GLUE(reduce_change, PASS)(const char *now, const char *before, size_t n, Dtype dtype,
                                             int is_full, Record *out)
{
    const size_t size = size_of(dtype);
    *out = empty_record;
    out->count = (double)n;
    for (size_t done = 0; done < n; done += STAGED_BLOCK) {
        const size_t m = n - done < STAGED_BLOCK ? n - done : STAGED_BLOCK;
        const char *a = now + done * size, *b = before + done * size;
        size_t at = 0;
        if (!is_full && dtype == FLOAT32) {
            at = GLUE(add_finite_change_float, PASS)(a, b, m, out);
        } else if (!is_full && dtype == FLOAT64) {
            at = GLUE(add_finite_change_double, PASS)(a, b, m, out);
        }
        double change[STAGED_BLOCK];
        GLUE(subtract, PASS)(a + at * size, b + at * size, m - at, dtype, change);
        GLUE(add_double, PASS)((const char *)change, m - at, least_normal_change[dtype], is_full, out);
    }
}

static const Pass GLUE(pass, PASS) = {PASS_NAME, GLUE(reduce, PASS), GLUE(reduce_change, PASS)};
