/* A large tensor is read in parts, by the threads that PyTorch's own operations run on. The parts depend on
 * its size alone and are put together in their order: how many threads there are changes no number. */

#ifndef GRADSCOPE_PARALLEL_H
#define GRADSCOPE_PARALLEL_H

#include "record.h"

/* What is smaller is read as a whole, by one thread: others would begin too late to be of use. */
#ifndef PARALLEL_MIN_BYTES
#define PARALLEL_MIN_BYTES (1 << 22)
#endif

/* Where n elements lie, and either their copy goes or what they were before; both may be NULL. */
typedef struct {
    const char *data, *before;
    char *copy;
    size_t n;
    Dtype dtype;
} Span;

/* What one tensor, or a part of it, gave. */
typedef struct {
    Record record;
    uint64_t bins[BINS];
} Statistics;

/* Look for the pool of threads of the OpenMP library that PyTorch has loaded. */
void find_thread_pool(void);

/* As in Pass, by no more than so many threads. `bins` of the answer are set at full detail alone. */
void reduce_parallel(const Pass *pass, const Span *span, int is_full, int threads, Statistics *out);
int is_finite_parallel(const Pass *pass, const Span *span, int threads);

#endif
