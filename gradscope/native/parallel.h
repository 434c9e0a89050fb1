/* Reads a large tensor in parts, in PyTorch's own thread pool. The parts depend only on the tensor's size and are
 * merged in order, so the result does not depend on the number of threads. */

#ifndef GRADSCOPE_PARALLEL_H
#define GRADSCOPE_PARALLEL_H

#include "record.h"

/* Smaller tensors are read by one thread: other threads would start too late to help. */
#ifndef PARALLEL_MIN_BYTES
#define PARALLEL_MIN_BYTES (1 << 22)
#endif

/* What is computed in addition to the columns. */
enum { WITH_BINS = 1, WITH_DIGEST = 2 };

/* n elements, and the address for a copy or the address of earlier values; both may be NULL. */
typedef struct {
    const char *data, *before;
    char *copy;
    size_t n;
    Dtype dtype;
} Span;

/* The statistics of one tensor, or of a part. */
typedef struct {
    Record record;
    uint64_t bins[BINS];
    uint64_t digest;
} Statistics;

/* Look up the thread pool of the OpenMP library that PyTorch has loaded. */
void find_thread_pool(void);

/* Like the functions of Pass, with at most `threads` threads. `wanted`: WITH_BINS, WITH_DIGEST or both; other parts of
 * the statistics are not set. The first element of the span has the index 0. */
void reduce_parallel(const Pass *pass, const Span *span, int wanted, int threads, Statistics *out);
int is_finite_parallel(const Pass *pass, const Span *span, int threads);

#endif
