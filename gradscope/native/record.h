/* One row of the row buffer, the exponent bins, and the interface of a pass over memory. */

#ifndef GRADSCOPE_RECORD_H
#define GRADSCOPE_RECORD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* The columns, in the order of gradscope/columns/schema.py; `_native.COLUMNS` publishes them, and Python
 * refuses an extension with other columns. X(name, merge): `merge` is ADD, MIN or MAX, the rule that combines
 * the column of two records; it also defines the value in an empty record. Other lists of columns are derived
 * from this one. */
#define FOR_EACH_COLUMN(X) \
    X(calls, ADD)          \
    X(count, ADD)          \
    X(nan, ADD)            \
    X(posinf, ADD)         \
    X(neginf, ADD)         \
    X(zero, ADD)           \
    X(subnormal, ADD)      \
    X(sum, ADD)            \
    X(sumsq, ADD)          \
    X(min, MIN)            \
    X(max, MAX)

/* A record: the columns of one or more tensors, all as float64; counts are exact up to 2^53. */
typedef struct {
#define COLUMN_FIELD(name, merge) double name;
    FOR_EACH_COLUMN(COLUMN_FIELD)
#undef COLUMN_FIELD
} Record;

#define EMPTY_ADD 0.0
#define EMPTY_MIN INFINITY
#define EMPTY_MAX -INFINITY

/* The record of no tensor: merging it changes nothing. */
static const Record empty_record = {
#define COLUMN_EMPTY(name, merge) .name = EMPTY_##merge,
    FOR_EACH_COLUMN(COLUMN_EMPTY)
#undef COLUMN_EMPTY
};

#define MERGED_ADD(a, b) ((a) + (b))
#define MERGED_MIN(a, b) ((b) < (a) ? (b) : (a))
#define MERGED_MAX(a, b) ((b) > (a) ? (b) : (a))

/* Merge a record into another, column by column. */
static inline void merge_record(Record *into, const Record *record)
{
#define COLUMN_MERGE(name, merge) into->name = MERGED_##merge(into->name, record->name);
    FOR_EACH_COLUMN(COLUMN_MERGE)
#undef COLUMN_MERGE
}

#define REPEATED_ADD(x, times) ((x) * (times))
#define REPEATED_MIN(x, times) (x)
#define REPEATED_MAX(x, times) (x)

/* Count each element `times` times. The number of calls does not change. */
static inline void repeat_record(Record *record, double times)
{
    const double calls = record->calls;
#define COLUMN_REPEAT(name, merge) record->name = REPEATED_##merge(record->name, times);
    FOR_EACH_COLUMN(COLUMN_REPEAT)
#undef COLUMN_REPEAT
    record->calls = calls;
}

enum { COLUMNS = sizeof(Record) / sizeof(double) };

/* The number of finite elements other than zero with each binary exponent from -47 to 16. The first and the
 * last bin also count everything beyond. 64 bins for positive elements, then 64 for negative ones. */
enum { BINS = 128, LEAST_EXPONENT = -47 };

typedef enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 } Dtype;

/* The digest of a part of a tensor, which begins at the element `index` (see digest.h). */
typedef struct {
    uint64_t sum, index;
} Digest;

#define DIGEST_STEP UINT64_C(0x9E3779B97F4A7C15)     /* 2^64 divided by the golden ratio, odd */
#define DIGEST_CONSTANT UINT64_C(0xD1B54A32D192ED03) /* any number with as many zeros as ones */

/* A pass over memory, compiled once for each instruction set. The functions do not access memory outside of
 * their arguments, allocate memory, or call Python. `out` is overwritten; `calls` is set to 1. If `bins` is not NULL,
 * they are added to, and `zero` and `subnormal` are counted (full detail). If `digest` is not NULL, the elements are
 * added to it; of a change, the elements `now`. */
typedef struct {
    const char *name;
    /* Whether this processor has the instructions. */
    int (*is_able)(void);
    /* Reduce n elements to a record; also copy them to `copy` unless it is NULL. */
    void (*reduce)(const char *data, size_t n, Dtype dtype, char *copy, uint64_t *bins, Digest *digest,
                   Record *out);
    /* Reduce now - before to a record; each difference is computed in float64. */
    void (*reduce_change)(const char *now, const char *before, size_t n, Dtype dtype, uint64_t *bins,
                          Digest *digest, Record *out);
    /* Whether all n elements are finite, tested by their bits. */
    int (*is_finite)(const char *data, size_t n, Dtype dtype);
    /* The digest of n elements of 1, 2, 4 or 8 bytes, the first of which has this index. */
    uint64_t (*digest)(const char *data, size_t n, size_t bytes, uint64_t index);
} Pass;

/* The i-th pass that this processor can run, the fastest first; NULL after the last. */
const Pass *pass_number(int i);

#endif
