/* The loops over elements of one type. Included by pass.h with
 *   NUMBER             the type's name,
 *   BYTES              the size of an element in memory,
 *   WIDE, INTEGER      the type to widen to, float or double, and the signed integer type of that size,
 *   INFINITE           the bits of infinity as INTEGER, and MAGNITUDE, a mask of all bits except the sign,
 *   VECTORS            the number of vectors read at a time, at least 2,
 *   LOAD(here)         a vector of elements from any address,
 *   PART(here, x, k)   the k-th part of vector x, which was loaded from `here`, as float64.
 * There are several accumulators, so that an addition need not wait for the previous one. */

#define TYPED(name) GLUE(name, NUMBER)
#define vector TYPED(vector)
#define integers TYPED(integers)
#define LESSER GLUE(LESSER, WIDE)
#define GREATER GLUE(GREATER, WIDE)
#define LANES (WIDTH / sizeof(WIDE))
#define PARTS (sizeof(double) / sizeof(WIDE))
#define STEP (VECTORS * LANES)
#define VECTOR_BYTES (LANES * BYTES)

typedef WIDE vector __attribute__((vector_size(WIDTH)));
typedef INTEGER integers __attribute__((vector_size(WIDTH)));

/* Add the elements of all whole steps in n elements if these are finite; a NaN or an infinity makes the sum
 * nonfinite. Returns the number of added elements, 0 if one is not finite. */
TARGET static size_t TYPED(add_finite)(const char *data, size_t n, Record *out)
{
    const size_t end = n - n % STEP;
    doubles sum[VECTORS * PARTS] = {{0}}, sumsq[VECTORS * PARTS] = {{0}};
    vector least[2], greatest[2];
    for (size_t v = 0; v < 2; v++) {
        least[v] = (vector){0} + (WIDE)INFINITY;
        greatest[v] = (vector){0} - (WIDE)INFINITY;
    }
    for (size_t i = 0; i < end; i += STEP) {
        PREFETCH(data + i * BYTES, STEP * BYTES)
        for (size_t v = 0; v < VECTORS; v++) {
            const char *here = data + i * BYTES + v * VECTOR_BYTES;
            const vector x = LOAD(here);
            least[v % 2] = LESSER(x, least[v % 2]);
            greatest[v % 2] = GREATER(x, greatest[v % 2]);
            for (size_t k = 0; k < PARTS; k++) {
                const doubles part = PART(here, x, k);
                sum[v * PARTS + k] += part;
                sumsq[v * PARTS + k] += part * part;
            }
        }
    }
    const double total = add_up(sum, VECTORS * PARTS);
    if (!isfinite(total)) {
        return 0;
    }
    out->sum += total;
    out->sumsq += add_up(sumsq, VECTORS * PARTS);
    least[0] = LESSER(least[0], least[1]);
    greatest[0] = GREATER(greatest[0], greatest[1]);
    for (size_t j = 0; j < LANES; j++) {
        out->min = (double)least[0][j] < out->min ? (double)least[0][j] : out->min;
        out->max = (double)greatest[0][j] > out->max ? (double)greatest[0][j] : out->max;
    }
    return end;
}

/* The same for the differences `now - before`, in float64. They are written to `changes` unless it is NULL. */
TARGET static size_t TYPED(add_finite_change)(const char *now, const char *before, size_t n, double *changes,
                                              Record *out)
{
    const size_t end = n - n % STEP;
    doubles sum[4] = {{0}}, sumsq[4] = {{0}}, least[2], greatest[2];
    for (size_t k = 0; k < 2; k++) {
        least[k] = (doubles){0} + INFINITY;
        greatest[k] = (doubles){0} - INFINITY;
    }
    for (size_t i = 0; i < end; i += STEP) {
        PREFETCH(now + i * BYTES, STEP * BYTES)
        PREFETCH(before + i * BYTES, STEP * BYTES)
        for (size_t v = 0; v < VECTORS; v++) {
            const size_t at = i * BYTES + v * VECTOR_BYTES;
            const vector x = LOAD(now + at), y = LOAD(before + at);
            for (size_t k = 0; k < PARTS; k++) {
                const size_t chain = (v * PARTS + k) % 4;
                const doubles change = PART(now + at, x, k) - PART(before + at, y, k);
                if (changes != NULL) {
                    *(loose_doubles *)(changes + i + v * LANES + k * (LANES / PARTS)) = change;
                }
                least[k % 2] = LESSER_double(change, least[k % 2]);
                greatest[k % 2] = GREATER_double(change, greatest[k % 2]);
                sum[chain] += change;
                sumsq[chain] += change * change;
            }
        }
    }
    const double total = add_up(sum, 4);
    if (!isfinite(total)) {
        return 0;
    }
    out->sum += total;
    out->sumsq += add_up(sumsq, 4);
    least[0] = LESSER_double(least[0], least[1]);
    greatest[0] = GREATER_double(greatest[0], greatest[1]);
    for (size_t j = 0; j < WIDTH / sizeof(double); j++) {
        out->min = least[0][j] < out->min ? least[0][j] : out->min;
        out->max = greatest[0][j] > out->max ? greatest[0][j] : out->max;
    }
    return end;
}

/* Add n elements, each classified by its bits; nonfinite elements are counted. An incomplete last step is padded
 * with NaN (all bits set, in every type). */
TARGET static void TYPED(add_any)(const char *data, size_t n, Record *out)
{
    const INTEGER sign = ~(INTEGER)0 ^ MAGNITUDE;
    const integers none = {0};
    integers nan = none, posinf = none, neginf = none;
    doubles sum[PARTS] = {{0}}, sumsq[PARTS] = {{0}};
    vector least = (vector)none + (WIDE)INFINITY, greatest = (vector)none - (WIDE)INFINITY;
    char filled[STEP * BYTES];
    for (size_t i = 0; i < n; i += STEP) {
        const char *step = data + i * BYTES;
        if (n - i < STEP) {
            memset(filled, 0xff, sizeof filled);
            step = memcpy(filled, step, (n - i) * BYTES);
            out->nan -= (double)(STEP - (n - i));
        }
        for (size_t v = 0; v < VECTORS; v++) {
            const integers bits = (integers)LOAD(step + v * VECTOR_BYTES), magnitude = bits & MAGNITUDE;
            const integers is_finite = magnitude < INFINITE;
            nan -= magnitude > INFINITE; /* a true comparison gives -1 */
            posinf -= bits == INFINITE;
            neginf -= bits == (INFINITE | sign);
            least = LESSER((vector)((bits & is_finite) | (INFINITE & ~is_finite)), least);
            greatest = GREATER((vector)((bits & is_finite) | ((INFINITE | sign) & ~is_finite)), greatest);
            const vector clean = (vector)(bits & is_finite);
            for (size_t k = 0; k < PARTS; k++) {
                const doubles part = PART((const char *)&clean, clean, k);
                sum[k] += part;
                sumsq[k] += part * part;
            }
        }
    }
    out->sum += add_up(sum, PARTS);
    out->sumsq += add_up(sumsq, PARTS);
    for (size_t j = 0; j < LANES; j++) {
        out->nan += (double)nan[j];
        out->posinf += (double)posinf[j];
        out->neginf += (double)neginf[j];
        out->min = (double)least[j] < out->min ? (double)least[j] : out->min;
        out->max = (double)greatest[j] > out->max ? (double)greatest[j] : out->max;
    }
}

TARGET static void TYPED(add)(const char *data, size_t n, Record *out)
{
    const size_t done = TYPED(add_finite)(data, n, out);
    if (done < n) {
        TYPED(add_any)(data + done * BYTES, n - done, out);
    }
}

/* The differences of whole steps of n elements. */
TARGET static void TYPED(subtract_steps)(const char *now, const char *before, size_t n, double *out)
{
    for (size_t i = 0; i + STEP <= n; i += STEP) {
        for (size_t v = 0; v < VECTORS; v++) {
            const char *here = now + i * BYTES + v * VECTOR_BYTES;
            const char *there = before + i * BYTES + v * VECTOR_BYTES;
            double *place = out + i + v * LANES;
            const vector x = LOAD(here), y = LOAD(there);
            for (size_t k = 0; k < PARTS; k++) {
                *(loose_doubles *)(place + k * (LANES / PARTS)) = PART(here, x, k) - PART(there, y, k);
            }
        }
    }
}

/* The differences of n elements. An incomplete last step is padded with zeros. */
TARGET static void TYPED(subtract)(const char *now, const char *before, size_t n, double *out)
{
    const size_t left = n % STEP, at = n - left;
    char filled[2][STEP * BYTES] = {{0}};
    double last[STEP];
    TYPED(subtract_steps)(now, before, n, out);
    if (left > 0) {
        memcpy(filled[0], now + at * BYTES, left * BYTES);
        memcpy(filled[1], before + at * BYTES, left * BYTES);
        TYPED(subtract_steps)(filled[0], filled[1], STEP, last);
        memcpy(out + at, last, left * sizeof(double));
    }
}

#undef TYPED
#undef vector
#undef integers
#undef LESSER
#undef GREATER
#undef LANES
#undef PARTS
#undef STEP
#undef VECTOR_BYTES
#undef NUMBER
#undef BYTES
#undef WIDE
#undef INTEGER
#undef INFINITE
#undef MAGNITUDE
#undef VECTORS
#undef LOAD
#undef PART
