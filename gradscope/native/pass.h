/* The pass, for the processor that these macros describe; included by avx512.c, avx2.c, neon.c and portable.c:
 *   WIDTH                          the size of a vector in bytes,
 *   TARGET                         an attribute of each function,
 *   LESSER_*, GREATER_*            the minimum and maximum in each lane; the second operand if one is NaN,
 *   LOAD_BFLOAT16, LOAD_FLOAT16    a vector of float32 from half as many bytes,
 *   PART_AT(here, k), PART_OF(x, k)   the k-th half of a vector of float32, as float64,
 * and the macros of bitslice.h if the processor can look up bytes in a vector.
 * Zeros, subnormals, infinities and NaN are recognised by their bits, so that a flush-to-zero mode set by another
 * library has no effect. This code does not set such a mode. Never compile it with -ffast-math. */

#include <math.h>
#include <string.h>

enum {
    BLOCK = 4096,          /* elements in a block: a block with a NaN is read twice */
    PREFETCH_BYTES = 4096, /* prefetch distance in bytes, across pages and blocks */
};

#define PREFETCH(here, size)                                              \
    for (size_t line = 0; line < (size); line += 64) {                    \
        __builtin_prefetch((const char *)(here) + PREFETCH_BYTES + line); \
    }

#define GLUE_(a, b) a##_##b
#define GLUE(a, b) GLUE_(a, b)

typedef float floats __attribute__((vector_size(WIDTH)));
typedef float loose_floats __attribute__((vector_size(WIDTH), aligned(1), may_alias));
typedef double doubles __attribute__((vector_size(WIDTH)));
typedef double loose_doubles __attribute__((vector_size(WIDTH), aligned(1), may_alias));

TARGET static double add_up(const doubles *sums, size_t n)
{
    doubles sum = sums[0];
    double total = 0;
    for (size_t k = 1; k < n; k++) {
        sum += sums[k];
    }
    for (size_t j = 0; j < WIDTH / sizeof(double); j++) {
        total += sum[j];
    }
    return total;
}

#include "exponents.h"

#define NUMBER float32
#define BYTES 4
#define WIDE float
#define INTEGER int32_t
#define INFINITE INT32_C(0x7f800000)
#define MAGNITUDE INT32_C(0x7fffffff)
#define VECTORS 2
#define LOAD(here) (*(const loose_floats *)(here))
#define PART(here, x, k) ((void)(x), PART_AT(here, k))
#include "element.h"

#define NUMBER float64
#define BYTES 8
#define WIDE double
#define INTEGER int64_t
#define INFINITE INT64_C(0x7ff0000000000000)
#define MAGNITUDE INT64_C(0x7fffffffffffffff)
#define VECTORS 4
#define LOAD(here) (*(const loose_doubles *)(here))
#define PART(here, x, k) (x)
#include "element.h"

#define NUMBER bfloat16
#define BYTES 2
#define WIDE float
#define INTEGER int32_t
#define INFINITE INT32_C(0x7f800000)
#define MAGNITUDE INT32_C(0x7fffffff)
#define VECTORS 2
#define LOAD(here) LOAD_BFLOAT16(here)
#define PART(here, x, k) PART_OF(x, k)
#include "element.h"

#define NUMBER float16
#define BYTES 2
#define WIDE float
#define INTEGER int32_t
#define INFINITE INT32_C(0x7f800000)
#define MAGNITUDE INT32_C(0x7fffffff)
#define VECTORS 2
#define LOAD(here) LOAD_FLOAT16(here)
#define PART(here, x, k) PART_OF(x, k)
#include "element.h"

/* An element is finite unless all bits of its exponent are set. A block is read to its end before the test, so that
 * the inner loop is vectorised. */
#define IS_FINITE(name, width, exponent)                                                      \
    TARGET static int name(const char *data, size_t n)                                        \
    {                                                                                         \
        const uint##width##_t highest = (uint##width##_t)((uint##width##_t)1 << (width - 1)); \
        const uint##width##_t lowest = (uint##width##_t)(highest - (exponent));               \
        for (size_t done = 0; done < n; done += BLOCK) {                                      \
            const size_t end = n - done < BLOCK ? n : done + BLOCK;                           \
            uint##width##_t found = 0;                                                        \
            for (size_t i = done; i < end; i++) { /* all bits set: sum is `highest` */        \
                const uint##width##_t bits = ((const Bits##width *)data)[i];                  \
                found |= (uint##width##_t)((bits & (exponent)) + lowest);                     \
            }                                                                                 \
            if (found & highest) {                                                            \
                return 0;                                                                     \
            }                                                                                 \
        }                                                                                     \
        return 1;                                                                             \
    }
IS_FINITE(is_finite_float32, 32, UINT32_C(0x7f800000))
IS_FINITE(is_finite_float64, 64, UINT64_C(0x7ff0000000000000))
IS_FINITE(is_finite_bfloat16, 16, UINT16_C(0x7f80))
IS_FINITE(is_finite_float16, 16, UINT16_C(0x7c00))

typedef struct {
    size_t bytes;
    Normal normal; /* of the change: of float64 */
    void (*add)(const char *data, size_t n, Record *out);
    size_t (*add_finite_change)(const char *now, const char *before, size_t n, double *changes, Record *out);
    void (*subtract)(const char *now, const char *before, size_t n, double *out);
    int (*is_finite)(const char *data, size_t n);
} Loops;

static const Loops loops_of[] = {
    [FLOAT32] = {4, NORMAL_IN_FLOAT32, add_float32, add_finite_change_float32, subtract_float32,
                 is_finite_float32},
    [FLOAT64] = {8, NORMAL, add_float64, add_finite_change_float64, subtract_float64, is_finite_float64},
    [BFLOAT16] = {2, NORMAL_IN_FLOAT32, add_bfloat16, add_finite_change_bfloat16, subtract_bfloat16,
                  is_finite_bfloat16},
    [FLOAT16] = {2, NORMAL_IN_FLOAT32, add_float16, add_finite_change_float16, subtract_float16,
                 is_finite_float16},
};

#include "digest.h"

/* The subnormal numbers of float16 have exponents that their bits do not show: widen them first. */
TARGET static void count_float16_exponents(ExponentCounter *count, const char *data, size_t n,
                                           const Record *part)
{
    enum { LANES = WIDTH / sizeof(float) };
    float wide[BLOCK];
    for (size_t done = 0; done < n; done += BLOCK) {
        const size_t m = n - done < BLOCK ? n - done : BLOCK, whole = m - m % LANES;
        const char *block = data + done * 2;
        for (size_t i = 0; i < whole; i += LANES) {
            const floats x = LOAD_FLOAT16(block + 2 * i);
            memcpy(wide + i, &x, sizeof x);
        }
        if (whole < m) {
            uint16_t last[LANES] = {0};
            memcpy(last, block + 2 * whole, (m - whole) * 2);
            const floats x = LOAD_FLOAT16(last);
            memcpy(wide + whole, &x, (m - whole) * sizeof(float));
        }
        count_exponents(count, (const char *)wide, m, FLOAT32, part);
    }
}

TARGET static void begin_record(Record *out, size_t n)
{
    *out = empty_record;
    out->calls = 1;
    out->count = (double)n;
}

TARGET static void reduce_full(const char *data, size_t n, Dtype dtype, char *copy, uint64_t *bins,
                               Digest *digest, Record *out)
{
    const Loops *loops = &loops_of[dtype];
    ExponentCounter count;
    begin_exponents(&count, dtype == FLOAT16 ? NORMAL_IN_FLOAT16 : NORMAL, bins);
    for (size_t done = 0; done < n; done += BLOCK) {
        const size_t m = n - done < BLOCK ? n - done : BLOCK;
        const char *block = data + done * loops->bytes;
        Record part = empty_record;
        loops->add(block, m, &part);
        if (dtype == FLOAT16) {
            count_float16_exponents(&count, block, m, &part);
        } else {
            count_exponents(&count, block, m, dtype, &part);
        }
        merge_record(out, &part);
        add_to_digest(digest, block, m, loops->bytes, done);
        if (copy != NULL) {
            memcpy(copy + done * loops->bytes, block, m * loops->bytes);
        }
    }
    end_exponents(&count, out);
}

TARGET static void reduce(const char *data, size_t n, Dtype dtype, char *copy, uint64_t *bins, Digest *digest,
                          Record *out)
{
    const Loops *loops = &loops_of[dtype];
    begin_record(out, n);
    if (bins != NULL) {
        reduce_full(data, n, dtype, copy, bins, digest, out);
        return;
    }
    for (size_t done = 0; done < n; done += BLOCK) {
        const size_t m = n - done < BLOCK ? n - done : BLOCK;
        const char *block = data + done * loops->bytes;
        loops->add(block, m, out);
        add_to_digest(digest, block, m, loops->bytes, done);
        if (copy != NULL) {
            memcpy(copy + done * loops->bytes, block, m * loops->bytes);
        }
    }
}

TARGET static void reduce_change_full(const char *now, const char *before, size_t n, const Loops *loops,
                                      uint64_t *bins, Digest *digest, Record *out)
{
    double change[BLOCK];
    ExponentCounter count;
    begin_exponents(&count, loops->normal, bins);
    for (size_t done = 0; done < n; done += BLOCK) {
        const size_t m = n - done < BLOCK ? n - done : BLOCK;
        const char *a = now + done * loops->bytes, *b = before + done * loops->bytes;
        Record part = empty_record;
        const size_t at = loops->add_finite_change(a, b, m, change, &part);
        if (at < m) {
            loops->subtract(a + at * loops->bytes, b + at * loops->bytes, m - at, change + at);
            add_float64((const char *)(change + at), m - at, &part);
        }
        count_exponents(&count, (const char *)change, m, FLOAT64, &part);
        add_to_digest(digest, a, m, loops->bytes, done);
        merge_record(out, &part);
    }
    end_exponents(&count, out);
}

TARGET static void reduce_change(const char *now, const char *before, size_t n, Dtype dtype, uint64_t *bins,
                                 Digest *digest, Record *out)
{
    const Loops *loops = &loops_of[dtype];
    begin_record(out, n);
    if (bins != NULL) {
        reduce_change_full(now, before, n, loops, bins, digest, out);
        return;
    }
    for (size_t done = 0; done < n; done += BLOCK) {
        const size_t m = n - done < BLOCK ? n - done : BLOCK;
        const char *a = now + done * loops->bytes, *b = before + done * loops->bytes;
        const size_t at = loops->add_finite_change(a, b, m, NULL, out);
        if (at < m) {
            double change[BLOCK];
            loops->subtract(a + at * loops->bytes, b + at * loops->bytes, m - at, change);
            add_float64((const char *)change, m - at, out);
        }
        add_to_digest(digest, a, m, loops->bytes, done);
    }
}

TARGET static int is_finite(const char *data, size_t n, Dtype dtype)
{
    return loops_of[dtype].is_finite(data, n);
}
