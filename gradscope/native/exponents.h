/* The exponent histogram. A code is the sign and the eight exponent bits of float32. If the processor has the
 * instructions that bitslice.h needs, vectors count most elements. The rest is counted in four tables in turn, so
 * that an increment does not wait for the previous one of the same exponent. Codes are folded into bins at the
 * end. Included by pass.h. */

enum {
    CODES = 512,
    SIGN = CODES / 2,             /* added to the code of a negative element */
    FIRST = 127 + LEAST_EXPONENT, /* the code of the first bin, which also counts smaller elements */
    LAST = FIRST + BINS / 2 - 1,  /* the code of the last bin, which also counts larger elements */
    NONFINITE = SIGN - 1,
    TABLES = 4,
    TABLE_STRIDE = CODES
        + 16, /* distance between tables: at a multiple of 4 kB, a read would wait for a write to another table */
    ONE_TABLE_MAX = 256, /* up to this number of elements, one table is used */
};

/* The smallest code of a normal element. */
typedef enum {
    NORMAL = 1,              /* of FLOAT32, BFLOAT16, FLOAT64 */
    NORMAL_IN_FLOAT32 = 2,   /* of FLOAT64 converted from narrower types */
    NORMAL_IN_FLOAT16 = 113, /* of FLOAT32 converted from float16 */
} Normal;

typedef struct {
    uint64_t *bins, zero, subnormal;
    uint64_t zeros[2];   /* counts since the last fold, by sign */
    uint32_t small;      /* count since the last fold: elements that may be zeros */
    uint32_t until_fold; /* number of elements until the next fold */
    Normal normal;
    size_t table_stride; /* distance between tables; 0 if there is only one */
    int pause;           /* number of blocks that are still counted only with tables */
    int is_wide;         /* whether a second window was useful for the last block */
    uint32_t tables[TABLES * TABLE_STRIDE];
} ExponentCounter;

static inline size_t size_of(Dtype dtype)
{
    return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2;
}

typedef uint16_t __attribute__((aligned(1), may_alias)) Bits16;
typedef uint32_t __attribute__((aligned(1), may_alias)) Bits32;
typedef uint64_t __attribute__((aligned(1), may_alias)) Bits64;

/* The code of the upper twelve bits of a float64. Exponents beyond the bins have the codes of the outermost bins.
 * Two codes are special: 0 for float64's own zeros and subnormals, 1 for elements below float32's normal range. */
#define FOUR(code) (code), (code) + 1, (code) + 2, (code) + 3
#define SIXTEEN(code) FOUR(code), FOUR((code) + 4), FOUR((code) + 8), FOUR((code) + 12)
/* clang-format has no format for ranges in initializers. */
/* clang-format off */
#define OF_SIGN(at, sign)                                                                                  \
    [(at)] = (sign), [(at) + 1 ... (at) + 896] = (sign) + 1, [(at) + 897 ... (at) + 975] = (sign) + FIRST, \
    [(at) + 976] = SIXTEEN((sign) + FIRST), SIXTEEN((sign) + FIRST + 16), SIXTEEN((sign) + FIRST + 32),    \
    SIXTEEN((sign) + FIRST + 48), [(at) + 1040 ... (at) + 2046] = (sign) + LAST,                           \
    [(at) + 2047] = (sign) + NONFINITE
/* clang-format on */
static const uint16_t code_of_float64[4096] = {OF_SIGN(0, 0), OF_SIGN(2048, SIGN)};

TARGET static void clear_exponents(ExponentCounter *counter)
{
    memset(counter->tables, 0,
           (counter->table_stride ? TABLES * TABLE_STRIDE : CODES) * sizeof counter->tables[0]);
    counter->zeros[0] = counter->zeros[1] = counter->small = 0;
    counter->until_fold = UINT32_MAX;
}

/* Begin to count; `bins` are added to at the end. */
TARGET static void begin_exponents(ExponentCounter *counter, Normal normal, uint64_t *bins)
{
    counter->bins = bins;
    counter->zero = counter->subnormal = 0;
    counter->normal = normal;
    counter->table_stride = 0;
    counter->pause = counter->is_wide = 0;
    clear_exponents(counter);
}

#define IN_TABLES(counter)                                                                          \
    uint32_t *const a = (counter)->tables, *const b = a + (counter)->table_stride,                  \
                    *const c = b + (counter)->table_stride, *const d = c + (counter)->table_stride; \
    size_t i = 0

TARGET static void tabulate_float32(ExponentCounter *counter, const char *data, size_t n)
{
    IN_TABLES(counter);
    for (; i + 4 <= n; i += 4) { /* two elements in a word, in any order */
        const uint64_t two = *(const Bits64 *)(data + 4 * i), more = *(const Bits64 *)(data + 4 * i + 8);
        a[two >> 23 & (CODES - 1)]++;
        b[two >> 55]++;
        c[more >> 23 & (CODES - 1)]++;
        d[more >> 55]++;
    }
    for (; i < n; i++) {
        a[*(const Bits32 *)(data + 4 * i) >> 23]++;
    }
}

TARGET static void tabulate_bfloat16(ExponentCounter *counter, const char *data, size_t n)
{
    IN_TABLES(counter);
    for (; i + 4 <= n; i += 4) {
        const uint64_t four = *(const Bits64 *)(data + 2 * i);
        a[four >> 7 & (CODES - 1)]++;
        b[four >> 23 & (CODES - 1)]++;
        c[four >> 39 & (CODES - 1)]++;
        d[four >> 55]++;
    }
    for (; i < n; i++) {
        a[*(const Bits16 *)(data + 2 * i) >> 7]++;
    }
}

TARGET static void tabulate_float64(ExponentCounter *counter, const char *data, size_t n)
{
    const Bits64 *x = (const Bits64 *)data;
    IN_TABLES(counter);
    for (; i + 4 <= n; i += 4) {
        a[code_of_float64[x[i] >> 52]]++;
        b[code_of_float64[x[i + 1] >> 52]]++;
        c[code_of_float64[x[i + 2] >> 52]]++;
        d[code_of_float64[x[i + 3] >> 52]]++;
    }
    for (; i < n; i++) {
        a[code_of_float64[x[i] >> 52]]++;
    }
}

#define COUNT_ZEROS(width)                                                            \
    {                                                                                 \
        uint##width##_t positive = 0, negative = 0;                                   \
        for (size_t i = 0; i < n; i++) {                                              \
            const uint##width##_t bits = ((const Bits##width *)data)[i];              \
            positive += bits == 0;                                                    \
            negative += bits == (uint##width##_t)((uint##width##_t)1 << (width - 1)); \
        }                                                                             \
        counter->zeros[0] += positive;                                                \
        counter->zeros[1] += negative;                                                \
    }

/* A zero has the code of a subnormal: all its bits must be examined. */
TARGET static void count_zeros(ExponentCounter *counter, const char *data, size_t n, Dtype dtype)
{
    if (dtype == BFLOAT16) {
        COUNT_ZEROS(16)
    } else if (dtype == FLOAT32) {
        COUNT_ZEROS(32)
    } else {
        COUNT_ZEROS(64)
    }
}

TARGET static uint32_t count_of_code(const ExponentCounter *counter, int code)
{
    const uint32_t *at = counter->tables + code;
    return counter->table_stride ? at[0] + at[TABLE_STRIDE] + at[2 * TABLE_STRIDE] + at[3 * TABLE_STRIDE]
                                 : at[0];
}

/* Add the codes of one sign to the bins. */
TARGET static void fold_sign(ExponentCounter *counter, int is_negative)
{
    uint64_t *bins = counter->bins + (is_negative ? BINS / 2 : 0);
    const uint32_t *at = counter->tables + (is_negative ? SIGN : 0);
    uint32_t sums[NONFINITE], below = 0, above = 0, small = 0;
    const uint32_t zeros = (uint32_t)counter->zeros[is_negative];
    if (counter->table_stride) {
        for (int i = 0; i < NONFINITE; i++) {
            sums[i] = at[i] + at[TABLE_STRIDE + i] + at[2 * TABLE_STRIDE + i] + at[3 * TABLE_STRIDE + i];
        }
    } else {
        memcpy(sums, at, sizeof sums);
    }
    for (int i = 0; i < FIRST; i++) {
        below += sums[i];
    }
    for (int i = LAST + 1; i < NONFINITE; i++) {
        above += sums[i];
    }
    for (int i = 0; i < (int)counter->normal; i++) {
        small += sums[i];
    }
    for (int i = 0; i < BINS / 2; i++) {
        bins[i] += sums[FIRST + i];
    }
    bins[0] += below - zeros;
    bins[BINS / 2 - 1] += above;
    counter->zero += zeros;
    counter->subnormal += small - zeros;
}

TARGET static uint32_t count_small(const ExponentCounter *counter)
{
    return count_of_code(counter, 0) + count_of_code(counter, 1) + count_of_code(counter, SIGN)
           + count_of_code(counter, SIGN + 1);
}

/* Count with tables. */
TARGET static void tabulate(ExponentCounter *counter, const char *data, size_t n, Dtype dtype)
{
    if (n > ONE_TABLE_MAX && counter->table_stride == 0) {
        memset(counter->tables + TABLE_STRIDE, 0, (TABLES - 1) * TABLE_STRIDE * sizeof counter->tables[0]);
        counter->table_stride = TABLE_STRIDE;
    }
    if (dtype == FLOAT64) {
        tabulate_float64(counter, data, n);
    } else if (dtype == BFLOAT16) {
        tabulate_bfloat16(counter, data, n);
    } else {
        tabulate_float32(counter, data, n);
    }
    const uint32_t small = count_small(counter);
    if (small > counter->small) {
        counter->small = small;
        count_zeros(counter, data, n, dtype);
    }
}

#ifdef PACK
#include "exponent_window.h"
#else
enum { CHUNK = BLOCK + 1 }; /* larger than any block, so vectors are never used */

static size_t count_in_window(ExponentCounter *counter, const char *data, size_t n, Dtype dtype,
                              const Record *block)
{
    (void)counter, (void)data, (void)n, (void)dtype, (void)block;
    return 0;
}
#endif

/* Count n elements of FLOAT32, BFLOAT16 or FLOAT64, at most one block, from any address. `block` is the record of
 * the block: whether all elements are finite, and their minimum and maximum. */
TARGET static void count_exponents(ExponentCounter *counter, const char *data, size_t n, Dtype dtype,
                                   const Record *block)
{
    size_t done = 0;
    if (n > counter->until_fold) {
        fold_sign(counter, 0);
        fold_sign(counter, 1);
        clear_exponents(counter);
    }
    counter->until_fold -= (uint32_t)n;
    if (counter->pause > 0) {
        counter->pause--;
    } else if (n >= 2 * CHUNK && block->nan == 0 && block->posinf == 0 && block->neginf == 0) {
        done = count_in_window(counter, data, n, dtype, block);
    }
    if (done < n) {
        tabulate(counter, data + done * size_of(dtype), n - done, dtype);
    }
}

/* Add the counts to the bins, and to `zero` and `subnormal` of the record. */
TARGET static void end_exponents(ExponentCounter *counter, Record *out)
{
    fold_sign(counter, 0);
    fold_sign(counter, 1);
    out->zero += (double)counter->zero;
    out->subnormal += (double)counter->subnormal;
}
