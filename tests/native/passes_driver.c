/* Every pass, without Python, on heap buffers of exactly the size that is needed, at every alignment: to be
 * built with -fsanitize=address,undefined, which end the program at the first byte that is read or written
 * outside. What the passes say is compared with plain loops over numbers taken apart by frexp. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "param_copies.h"
#include "record.h"

enum { MOST = 20000, ALIGNMENTS = 33 };

static const size_t size_of[] = {4, 8, 2, 2};
static const int least_normal[] = {-126, -1022, -126, -14};
static unsigned long cases;
static size_t stride = 1; /* of the alignments that are tried */

static uint64_t draw(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void fail(const char *what, const char *pass, int dtype, size_t n, int is_full)
{
    printf("%s: pass %s, dtype %d, %zu elements, full %d\n", what, pass, dtype, n, is_full);
    exit(1);
}

/* --- what is read ------------------------------------------------------------------------------------- */

static double narrow_value(uint16_t bits, int fraction_bits, int bias)
{
    const int exponent_bits = 15 - fraction_bits;
    const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    const int fraction = bits & ((1 << fraction_bits) - 1);
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) {
        return fraction ? NAN : sign * INFINITY;
    }
    const int whole = exponent ? fraction + (1 << fraction_bits) : fraction;
    return sign * ldexp(whole, (exponent ? exponent : 1) - bias - fraction_bits);
}

static double value_of(const char *data, int dtype, size_t i)
{
    float single;
    double wide;
    uint16_t narrow;
    switch (dtype) {
    case FLOAT32:
        memcpy(&single, data + 4 * i, 4);
        return single;
    case FLOAT64:
        memcpy(&wide, data + 8 * i, 8);
        return wide;
    default:
        memcpy(&narrow, data + 2 * i, 2);
        return dtype == BFLOAT16 ? narrow_value(narrow, 7, 127) : narrow_value(narrow, 10, 15);
    }
}

typedef enum { ANY, FINITE, NEAR, KINDS } Kind;

static const uint64_t extreme[] = {0x7f800000, 0x7ff0000000000000, 0x7f80, 0x7c00};

static uint64_t draw_bits(int dtype, int is_finite)
{
    const uint64_t sign = UINT64_C(1) << (8 * size_of[dtype] - 1);
    uint64_t bits = draw() % 4 ? draw() : draw() & sign;
    if (dtype == FLOAT64) {
        bits &= ~(UINT64_C(1) << 62); /* whose squares can be added up */
    }
    if (!is_finite && draw() % 8 == 0) {
        bits = extreme[dtype] | (draw() & (sign | draw() % 2));
    } else if ((bits & extreme[dtype]) == extreme[dtype]) {
        bits &= sign;
    }
    return bits;
}

/* Of `binades` exponents up to one in the middle, but for few; and zeros where there are to be. */
static uint64_t draw_near(int dtype, uint64_t binades, int has_zeros)
{
    static const int fraction[] = {23, 52, 7, 10};
    const uint64_t exponent = (extreme[dtype] >> fraction[dtype]) / 2 - draw() % binades;
    const uint64_t sign = UINT64_C(1) << (8 * size_of[dtype] - 1);
    if (draw() % 300 == 0) {
        return draw_bits(dtype, 1) & ~(extreme[dtype] / 2 + 1); /* none that is greater */
    }
    const uint64_t bits = exponent << fraction[dtype] | (draw() & ((UINT64_C(1) << fraction[dtype]) - 1));
    return (has_zeros && draw() % 2 ? 0 : bits) | (draw() & sign);
}

/* Numbers of any kind, finite ones of any exponent whose square is one, or such as tensors are full of. */
static void fill(char *data, int dtype, size_t n, Kind kind)
{
    const uint64_t binades = draw() % (dtype == FLOAT16 ? 15 : 40) + 1;
    const int has_zeros = draw() % 2 != 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits =
            kind == NEAR ? draw_near(dtype, binades, has_zeros) : draw_bits(dtype, kind == FINITE);
        memcpy(data + i * size_of[dtype], &bits, size_of[dtype]); /* of a little-endian machine */
    }
}

/* --- what is expected --------------------------------------------------------------------------------- */

typedef struct {
    Record record;
    double magnitude;
    uint64_t bins[BINS];
} Expected;

static void expect(const double *x, size_t n, int least, Expected *out)
{
    memset(out, 0, sizeof *out);
    Record *r = &out->record;
    *r = (Record){.calls = 1, .count = (double)n, .min = INFINITY, .max = -INFINITY};
    for (size_t i = 0; i < n; i++) {
        int exponent;
        if (!isfinite(x[i])) {
            r->nan += isnan(x[i]) != 0;
            r->posinf += x[i] == INFINITY;
            r->neginf += x[i] == -INFINITY;
            continue;
        }
        frexp(x[i], &exponent);
        r->zero += x[i] == 0;
        r->subnormal += x[i] != 0 && exponent - 1 < least;
        r->sum += x[i];
        r->sumsq += x[i] * x[i];
        r->min = fmin(r->min, x[i]);
        r->max = fmax(r->max, x[i]);
        out->magnitude += fabs(x[i]);
        if (x[i] != 0) {
            const int bin = exponent - 1 < -47 ? 0 : exponent - 1 > 16 ? 63 : exponent - 1 + 47;
            out->bins[bin + (x[i] < 0 ? 64 : 0)]++;
        }
    }
}

static int is_near(double a, double b, double magnitude)
{
    return a == b || fabs(a - b) <= 1e-12 * magnitude;
}

static void compare(const Record *got, const uint64_t *bins, const Expected *expected, const char *pass,
                    int dtype, int is_full)
{
    const Record *want = &expected->record;
    const size_t n = (size_t)want->count;
    const double wanted[] = {1, want->count, want->nan, want->posinf, want->neginf, want->min, want->max};
    const double found[] = {got->calls, got->count, got->nan, got->posinf, got->neginf, got->min, got->max};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (wanted[i] != found[i]) {
            fail("counts, min and max", pass, dtype, n, is_full);
        }
    }
    if (!is_near(got->sum, want->sum, expected->magnitude)
        || !is_near(got->sumsq, want->sumsq, want->sumsq)) {
        fail("sums", pass, dtype, n, is_full);
    }
    if (got->zero != (is_full ? want->zero : 0) || got->subnormal != (is_full ? want->subnormal : 0)) {
        fail("zeros and subnormal numbers", pass, dtype, n, is_full);
    }
    if (is_full && memcmp(bins, expected->bins, sizeof expected->bins) != 0) {
        fail("exponents", pass, dtype, n, is_full);
    }
    cases++;
}

/* --- the passes --------------------------------------------------------------------------------------- */

/* A buffer that ends where n elements end, and begins `offset` bytes before them. */
static char *place(const char *data, size_t bytes, size_t offset, char **buffer)
{
    *buffer = malloc(offset + bytes);
    return memcpy(*buffer + offset, data, bytes);
}

/* The digest of digest.h, one element at a time. */
static uint64_t expected_digest(const char *data, size_t n, size_t bytes, uint64_t index)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t z = 0;
        memcpy(&z, data + i * bytes, bytes); /* of a little-endian machine */
        z = (bytes < 8 ? z | z << 32 : z) ^ (index + i + 1) * DIGEST_STEP;
        for (int round = 0; round < 2; round++) {
            z = (z & 0xffffffff) * (z >> 32) + (z << 32 | z >> 32);
            z ^= round ? 0 : DIGEST_CONSTANT;
        }
        sum += z;
    }
    return sum;
}

static void check_digests(const Pass *pass, int dtype, const char *now, const char *before, size_t n)
{
    const size_t bytes = size_of[dtype];
    Record record;
    for (int is_full = 0; is_full < 2; is_full++) {
        uint64_t bins[BINS] = {0};
        Digest value = {7, 1000}, change = {7, 1000};
        pass->reduce(now, n, (Dtype)dtype, NULL, is_full ? bins : NULL, &value, &record);
        pass->reduce_change(now, before, n, (Dtype)dtype, is_full ? bins : NULL, &change, &record);
        const uint64_t expected = expected_digest(now, n, bytes, 1000) + 7;
        if (value.sum != expected || change.sum != expected) {
            fail("digest", pass->name, dtype, n, is_full);
        }
    }
    for (size_t width = 1; width <= 8; width *= 2) {
        const size_t m = n * bytes / width;
        if (pass->digest(now, m, width, 3) != expected_digest(now, m, width, 3)) {
            fail("digest of bytes", pass->name, (int)width, m, 0);
        }
    }
}

static void check(const Pass *pass, int dtype, const char *a, const char *b, size_t n, size_t offset,
                  const Expected *value, const Expected *change)
{
    const size_t bytes = n * size_of[dtype];
    char *buffers[3];
    char *now = place(a, bytes, offset, &buffers[0]);
    char *before = place(b, bytes, offset / 2, &buffers[1]);
    char *copy = place(b, bytes, offset / 3, &buffers[2]);
    Record record;
    for (int is_full = 0; is_full < 2; is_full++) {
        uint64_t *bins = is_full ? calloc(BINS, sizeof *bins) : NULL;
        pass->reduce(now, n, (Dtype)dtype, offset % 2 ? copy : NULL, bins, NULL, &record);
        compare(&record, bins, value, pass->name, dtype, is_full);
        if (is_full) {
            memset(bins, 0, BINS * sizeof *bins);
        }
        pass->reduce_change(now, before, n, (Dtype)dtype, bins, NULL, &record);
        compare(&record, bins, change, pass->name, dtype, is_full);
        free(bins);
    }
    check_digests(pass, dtype, now, before, n);
    const double strange = value->record.nan + value->record.posinf + value->record.neginf;
    if (pass->is_finite(now, n, (Dtype)dtype) != (strange == 0)) {
        fail("is_finite", pass->name, dtype, n, 0);
    }
    if (offset % 2 && memcmp(copy, now, bytes) != 0) {
        fail("copy", pass->name, dtype, n, 0);
    }
    for (int i = 0; i < 3; i++) {
        free(buffers[i]);
    }
}

static void check_size(int dtype, size_t n, Kind kind)
{
    static char now[MOST * 8], before[MOST * 8];
    static double x[MOST], difference[MOST];
    Expected value, change;
    fill(now, dtype, n, kind);
    fill(before, dtype, n, kind);
    if (draw() % 2) {
        memcpy(before, now, n * size_of[dtype] / 2);
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = value_of(now, dtype, i);
        difference[i] = x[i] - value_of(before, dtype, i);
    }
    expect(x, n, least_normal[dtype], &value);
    expect(difference, n, dtype == FLOAT64 ? -1022 : -126, &change);
    for (int k = 0; pass_number(k) != NULL; k++) {
        for (size_t offset = n % ALIGNMENTS; offset < ALIGNMENTS; offset += stride * (n % 16 ? 7 : 1)) {
            check(pass_number(k), dtype, now, before, n, offset, &value, &change);
        }
    }
}

/* --- copies ------------------------------------------------------------------------------------------- */

static void check_kept(void)
{
    enum { TENSORS = 6 };
    const size_t capacity = draw() % 400;
    char *span = malloc(capacity), *places[TENSORS];
    CopyHeader headings[TENSORS];
    CopyCursor cursor = {span, span + capacity};
    for (int i = 0; i < TENSORS; i++) {
        headings[i] = (CopyHeader){draw(), draw() % 16 ? draw() % 70 : draw()};
        places[i] = reserve_copy(&cursor, draw() % 8 ? &headings[i] : NULL);
        if (places[i] != NULL) {
            memset(places[i], i + 1, headings[i].size_bytes);
        }
    }
    cursor = (CopyCursor){span, span + capacity};
    for (int i = 0; i < TENSORS; i++) {
        const CopyHeader other = {headings[i].layout + 1, headings[i].size_bytes};
        const int is_same = draw() % 4 > 0;
        const char *found = find_copy(&cursor, is_same ? &headings[i] : &other);
        if (found != (is_same ? places[i] : NULL)) {
            fail("a copy is not found again", "", 0, capacity, i);
        }
        for (size_t k = 0; found != NULL && k < headings[i].size_bytes; k++) {
            if (found[k] != i + 1) {
                fail("a copy was overwritten", "", 0, capacity, i);
            }
        }
    }
    cases++;
    for (size_t i = 0; i < capacity; i++) { /* what others wrote there must do no harm */
        span[i] = (char)(draw() % 3 ? 0 : draw());
    }
    cursor = (CopyCursor){span, span + capacity};
    for (int i = 0; i < TENSORS; i++) {
        find_copy(&cursor, &headings[i]);
    }
    free(span);
}

/* An argument says to try only every so manieth alignment: an emulated processor is slow. */
int main(int count, char **arguments)
{
    stride = count > 1 ? strtoul(arguments[1], NULL, 10) : 1;
    static const size_t large[] = {511, 512, 640, 1023, 1024, 1025, 4095, 4096, 4097, 8209, MOST};
    for (int dtype = 0; dtype < 4; dtype++) {
        for (Kind kind = ANY; kind < KINDS; kind++) {
            for (size_t n = 0; n <= (kind == NEAR ? 0 : 300); n++) {
                check_size(dtype, n, kind);
            }
            for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
                check_size(dtype, large[i], kind);
            }
        }
    }
    for (int i = 0; i < 20000; i++) {
        check_kept();
    }
    for (int k = 0; pass_number(k) != NULL; k++) {
        printf("%s ", pass_number(k)->name);
    }
    printf("%lu cases\n", cases);
    return 0;
}
