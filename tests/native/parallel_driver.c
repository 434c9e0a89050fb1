/* Large stretches of memory in parts, on heap buffers of exactly the size that is needed, by several threads
 * and by one, which say the same to the last bit: to be built with -fopenmp and -fsanitize=address,undefined. */

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"

static const size_t size_of[] = {4, 8, 2, 2};
static unsigned long cases;

/* Small numbers of either sign, in any type: a few bits of the exponent are drawn. */
static char *draw(int dtype, size_t n, int has_nan)
{
    static const uint64_t one[] = {0x3f800000, 0x3ff0000000000000, 0x3f80, 0x3c00};
    static const uint64_t nan[] = {0x7fc00000, 0x7ff8000000000000, 0x7fc0, 0x7e00};
    char *data = malloc(n * size_of[dtype]);
    for (size_t i = 0; i < n; i++) {
        const uint64_t drawn = i * 0x9e3779b97f4a7c15u;
        uint64_t bits = one[dtype] - (drawn >> 40) % (one[dtype] / 8);
        bits |= (drawn >> 33 & 1) << (8 * size_of[dtype] - 1);
        bits = has_nan && i == n / 2 ? nan[dtype] : drawn >> 61 ? bits : 0;
        memcpy(data + i * size_of[dtype], &bits, size_of[dtype]); /* of a little-endian machine */
    }
    return data;
}

static void expect(int is_so, const char *what, const Pass *pass, const Span *span, int is_full)
{
    if (!is_so) {
        printf("%s: pass %s, dtype %d, %zu elements, full %d\n", what, pass->name, span->dtype, span->n,
               is_full);
        exit(1);
    }
    cases++;
}

static void check_reduced(const Pass *pass, const Span *span, int is_full)
{
    Statistics alone, whole;
    memset(&alone, 0, sizeof alone);
    memset(&whole, 0, sizeof whole);
    const int wanted = WITH_DIGEST | (is_full ? WITH_BINS : 0);
    reduce_parallel(pass, span, wanted, 1, &alone);
    uint64_t *bins = is_full ? whole.bins : NULL;
    Digest digest = {0, 0};
    if (span->before != NULL) {
        pass->reduce_change(span->data, span->before, span->n, span->dtype, bins, &digest, &whole.record);
    } else {
        pass->reduce(span->data, span->n, span->dtype, NULL, bins, &digest, &whole.record);
    }
    expect(fabs(alone.record.sum - whole.record.sum) <= 1e-12 * whole.record.count
               && fabs(alone.record.sumsq - whole.record.sumsq) <= 1e-12 * whole.record.sumsq,
           "sums", pass, span, is_full);
    whole.record.sum = alone.record.sum;
    whole.record.sumsq = alone.record.sumsq;
    expect(memcmp(&alone.record, &whole.record, sizeof alone.record) == 0, "columns", pass, span, is_full);
    expect(!is_full || memcmp(alone.bins, whole.bins, sizeof whole.bins) == 0, "bins", pass, span, is_full);
    expect(alone.digest == digest.sum, "digest", pass, span, is_full);
    for (int threads = 2; threads < 8; threads += 3) {
        Statistics together;
        memset(&together, 0, sizeof together);
        reduce_parallel(pass, span, wanted, threads, &together);
        expect(memcmp(&together.record, &alone.record, sizeof alone.record) == 0, "threads", pass, span,
               is_full);
        expect(together.digest == alone.digest, "digest of threads", pass, span, is_full);
        expect(!is_full || memcmp(together.bins, alone.bins, sizeof alone.bins) == 0, "bins of threads", pass,
               span, is_full);
    }
}

static void check(const Pass *pass, int dtype, size_t n, int has_nan)
{
    char *data = draw(dtype, n, has_nan), *before = draw(dtype, n, 0), *copy = malloc(n * size_of[dtype]);
    const Span value = {data, NULL, NULL, n, (Dtype)dtype}, change = {data, before, NULL, n, (Dtype)dtype};
    const Span copied = {data, NULL, copy, n, (Dtype)dtype};
    Statistics statistics;
    memset(before, 0, n * size_of[dtype] / 2);
    for (int is_full = 0; is_full < 2; is_full++) {
        check_reduced(pass, &value, is_full);
        check_reduced(pass, &change, is_full);
    }
    reduce_parallel(pass, &copied, 0, 3, &statistics);
    expect(memcmp(data, copy, n * size_of[dtype]) == 0, "copy", pass, &copied, 0);
    expect(is_finite_parallel(pass, &value, 3) == !has_nan, "is_finite", pass, &value, 0);
#pragma omp parallel num_threads(2)
    expect(is_finite_parallel(pass, &value, 2) == !has_nan, "in parallel", pass, &value, omp_in_parallel());
    free(data);
    free(before);
    free(copy);
}

int main(void)
{
    find_thread_pool();
    for (int k = 0; pass_number(k) != NULL; k++) {
        for (int dtype = 0; dtype < 4; dtype++) {
            const size_t parted = PARALLEL_MIN_BYTES / size_of[dtype];
            check(pass_number(k), dtype, parted - 1, 0);
            check(pass_number(k), dtype, parted, 0);
            check(pass_number(k), dtype, parted + 4097, dtype % 2);
        }
    }
    printf("%lu cases\n", cases);
    return 0;
}
