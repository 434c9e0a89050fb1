/* One row of the board: the columns in the order of gradscope.columns.COLUMNS, all as float64. */

#ifndef GRADSCOPE_RECORD_H
#define GRADSCOPE_RECORD_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double calls, count, nan, posinf, neginf, zero, subnormal, sum, sumsq, min, max;
} Record;

/* How many finite elements other than zero have each binary exponent, -47 to 16, the ends with what lies
 * beyond them: first of the positive ones, then of the negative. */
enum { BINS = 128, LEAST_EXPONENT = -47 };

typedef enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 } Dtype;

/* A pass over memory, compiled once for each kind of processor. No function reads or writes a byte
 * outside of what it is given, allocates, or knows Python. `out` is overwritten; `calls` is set to 1.
 * `bins`, where it is not NULL, is added to, and only then `zero` and `subnormal` are counted. */
typedef struct {
    const char *name;
    /* Whether this processor runs it. */
    int (*is_able)(void);
    /* The columns of n elements, which are copied on the way where `copy` is not NULL. */
    void (*reduce)(const char *data, size_t n, Dtype dtype, char *copy, uint64_t *bins, Record *out);
    /* The columns of now - before, each difference taken in float64. */
    void (*reduce_change)(const char *now, const char *before, size_t n, Dtype dtype, uint64_t *bins,
                          Record *out);
    /* Whether all of n elements are finite, told by their bits. */
    int (*is_finite)(const char *data, size_t n, Dtype dtype);
} Pass;

/* The passes that this processor runs, one at a time, the fastest first; NULL past the last. */
const Pass *pass_number(int i);

#endif
