#define _GNU_SOURCE /* for RTLD_DEFAULT */

#include "parallel.h"

#include <string.h>

enum {
    MAX_PARTS = 32,
    PART_UNIT = 4096, /* in elements: parts consist of whole blocks */
};

typedef struct {
    const Pass *pass;
    const Span *span;
    size_t size; /* number of elements in a part */
    int parts, wanted;
    int next, is_finite; /* changed by all threads */
    Statistics statistics[MAX_PARTS];
} Job;

static size_t bytes_of(const Span *span, size_t n)
{
    return n * (span->dtype == FLOAT64 ? 8 : span->dtype == FLOAT32 ? 4 : 2);
}

/* --- one thread: take the next part that no thread has taken ------------------------------------------- */

/* Returns the index of the part, or -1 if none is left. */
static int next_part(Job *job, Span *part)
{
    const int i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (i >= job->parts) {
        return -1;
    }
    const Span *all = job->span;
    const size_t at = (size_t)i * job->size, offset = bytes_of(all, at);
    *part = *all;
    part->n = all->n - at < job->size ? all->n - at : job->size;
    part->data += offset;
    part->before = all->before == NULL ? NULL : all->before + offset;
    part->copy = all->copy == NULL ? NULL : all->copy + offset;
    return i;
}

static void reduce_part(const Pass *pass, const Span *part, size_t index, int wanted, Statistics *out)
{
    uint64_t *bins = wanted & WITH_BINS ? memset(out->bins, 0, sizeof out->bins) : NULL;
    Digest found = {0, index}, *digest = wanted & WITH_DIGEST ? &found : NULL;
    if (part->before != NULL) {
        pass->reduce_change(part->data, part->before, part->n, part->dtype, bins, digest, &out->record);
    } else {
        pass->reduce(part->data, part->n, part->dtype, part->copy, bins, digest, &out->record);
    }
    out->digest = found.sum;
}

static void reduce_next_parts(void *all)
{
    Job *job = all;
    Span part;
    for (int i = next_part(job, &part); i >= 0; i = next_part(job, &part)) {
        reduce_part(job->pass, &part, (size_t)i * job->size, job->wanted, &job->statistics[i]);
    }
}

static void check_parts(void *all)
{
    Job *job = all;
    Span part;
    while (__atomic_load_n(&job->is_finite, __ATOMIC_RELAXED) && next_part(job, &part) >= 0) {
        if (!job->pass->is_finite(part.data, part.n, part.dtype)) {
            __atomic_store_n(&job->is_finite, 0, __ATOMIC_RELAXED);
        }
    }
}

/* --- the threads -------------------------------------------------------------------------------------- */

#ifdef __linux__
#include <dlfcn.h>
#include <unistd.h>

static void (*run_in_pool)(void (*work)(void *), void *all, unsigned threads, unsigned flags);
static int (*is_in_parallel)(void);
static pid_t owner;

void find_thread_pool(void)
{
    void *run = dlsym(RTLD_DEFAULT, "GOMP_parallel"), *asks = dlsym(RTLD_DEFAULT, "omp_in_parallel");
    if (run != NULL && asks != NULL) {
        memcpy(&run_in_pool, &run,
               sizeof run); /* C has no conversion from a data pointer to a function pointer */
        memcpy(&is_in_parallel, &asks, sizeof asks);
        owner = getpid();
    }
}

/* Always uses all threads: OpenMP ends the threads that a smaller team does not need, and the next PyTorch operation
 * would have to start them again. A thread without a part does nothing.
 * A forked child process has a copy of the pool without its threads, and would wait for these forever. */
static void run(void (*work)(void *), Job *job, int threads)
{
    if (threads > 1 && run_in_pool != NULL && getpid() == owner && !is_in_parallel()) {
        run_in_pool(work, job, (unsigned)threads, 0);
    } else {
        work(job);
    }
}
#else
void find_thread_pool(void)
{
}

static void run(void (*work)(void *), Job *job, int threads)
{
    (void)threads;
    work(job);
}
#endif

/* --- all parts ---------------------------------------------------------------------------------------- */

static void begin(Job *job, const Pass *pass, const Span *span)
{
    const size_t units = (span->n + PART_UNIT - 1) / PART_UNIT;
    job->pass = pass;
    job->span = span;
    job->size = (units + MAX_PARTS - 1) / MAX_PARTS * PART_UNIT;
    job->parts = (int)((span->n + job->size - 1) / job->size);
    job->next = 0;
    job->is_finite = 1;
}

static void merge_parts(const Job *job, Statistics *out)
{
    *out = job->statistics[0];
    for (int i = 1; i < job->parts; i++) {
        merge_record(&out->record, &job->statistics[i].record);
        out->digest += job->statistics[i].digest;
        for (int k = 0; job->wanted & WITH_BINS && k < BINS; k++) {
            out->bins[k] += job->statistics[i].bins[k];
        }
    }
    out->record.calls = 1; /* all parts belong to one tensor */
}

void reduce_parallel(const Pass *pass, const Span *span, int wanted, int threads, Statistics *out)
{
    Job job;
    if (bytes_of(span, span->n) < PARALLEL_MIN_BYTES) {
        reduce_part(pass, span, 0, wanted, out);
        return;
    }
    begin(&job, pass, span);
    job.wanted = wanted;
    run(reduce_next_parts, &job, threads);
    merge_parts(&job, out);
}

int is_finite_parallel(const Pass *pass, const Span *span, int threads)
{
    Job job;
    if (bytes_of(span, span->n) < PARALLEL_MIN_BYTES) {
        return pass->is_finite(span->data, span->n, span->dtype);
    }
    begin(&job, pass, span);
    run(check_parts, &job, threads);
    return job.is_finite;
}
