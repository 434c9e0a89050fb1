/* The loops over elements of one type, for one processor. Included by pass.h with ELEMENT, INTEGER (of the
 * same size), INFINITE and MAGNITUDE (bits), and PARTS (float64 vectors that one vector widens to). */

#define TYPED(name) GLUE(GLUE(name, ELEMENT), PASS)
#define vector TYPED(vector)
#define loose TYPED(loose)
#define part TYPED(part)
#define integers TYPED(integers)
#define loose_integers TYPED(loose_integers)
#define doubles TYPED(doubles)
#define LESSER GLUE(LESSER, ELEMENT)
#define GREATER GLUE(GREATER, ELEMENT)
#define LANES (WIDTH / sizeof(ELEMENT))

typedef ELEMENT vector __attribute__((vector_size(WIDTH)));
typedef ELEMENT loose __attribute__((vector_size(WIDTH), aligned(1), may_alias));
typedef ELEMENT part __attribute__((vector_size(WIDTH / PARTS), aligned(1), may_alias));
typedef INTEGER integers __attribute__((vector_size(WIDTH)));
typedef INTEGER loose_integers __attribute__((vector_size(WIDTH), aligned(1), may_alias));
typedef double doubles __attribute__((vector_size(WIDTH)));

/* Add the whole vectors of n elements when all are finite, in one look at each: a NaN or an infinity
 * among them shows in the sum. Returns how many elements were added: 0 when one is not finite. */
TARGET static size_t TYPED(add_finite)(const char *data, size_t n, Record *out)
{
    const size_t end = n - n % LANES;
    const vector none = {0};
    doubles sum[PARTS] = {{0}}, sumsq[PARTS] = {{0}};
    vector least = none + (ELEMENT)INFINITY, greatest = none - (ELEMENT)INFINITY;
    for (size_t i = 0; i < end; i += LANES) {
        const char *here = data + i * sizeof(ELEMENT);
        const vector x = *(const loose *)here;
        least = LESSER(x, least);
        greatest = GREATER(x, greatest);
        for (int k = 0; k < PARTS; k++) {
            const doubles wide = __builtin_convertvector(((const part *)here)[k], doubles);
            sum[k] += wide;
            sumsq[k] += wide * wide;
        }
    }
    double total = 0, squares = 0;
    for (int k = 0; k < PARTS; k++) {
        for (size_t j = 0; j < WIDTH / sizeof(double); j++) {
            total += sum[k][j];
            squares += sumsq[k][j];
        }
    }
    if (!isfinite(total)) {
        return 0;
    }
    out->sum += total;
    out->sumsq += squares;
    for (size_t j = 0; j < LANES; j++) {
        out->min = (double)least[j] < out->min ? (double)least[j] : out->min;
        out->max = (double)greatest[j] > out->max ? (double)greatest[j] : out->max;
    }
    return end;
}

/* The same of now - before, each difference taken in float64. */
TARGET static size_t TYPED(add_finite_change)(const char *now, const char *before, size_t n, Record *out)
{
    const size_t end = n - n % LANES;
    const doubles none = {0};
    doubles sum[PARTS], sumsq[PARTS], least[PARTS], greatest[PARTS];
    for (int k = 0; k < PARTS; k++) {
        sum[k] = sumsq[k] = none;
        least[k] = none + INFINITY;
        greatest[k] = none - INFINITY;
    }
    for (size_t i = 0; i < end; i += LANES) {
        const part *a = (const part *)(now + i * sizeof(ELEMENT));
        const part *b = (const part *)(before + i * sizeof(ELEMENT));
        for (int k = 0; k < PARTS; k++) {
            const doubles change
                = __builtin_convertvector(a[k], doubles) - __builtin_convertvector(b[k], doubles);
            least[k] = LESSER_double(change, least[k]);
            greatest[k] = GREATER_double(change, greatest[k]);
            sum[k] += change;
            sumsq[k] += change * change;
        }
    }
    double total = 0;
    for (int k = 0; k < PARTS; k++) {
        for (size_t j = 0; j < WIDTH / sizeof(double); j++) {
            total += sum[k][j];
        }
    }
    if (!isfinite(total)) {
        return 0;
    }
    out->sum += total;
    for (int k = 0; k < PARTS; k++) {
        for (size_t j = 0; j < WIDTH / sizeof(double); j++) {
            out->sumsq += sumsq[k][j];
            out->min = least[k][j] < out->min ? least[k][j] : out->min;
            out->max = greatest[k][j] > out->max ? greatest[k][j] : out->max;
        }
    }
    return end;
}

/* Add n elements of any kind, each judged by its bits; those that are not finite are counted. The last vector may be filled in part. */
TARGET static void TYPED(add_any)(const char *data, size_t n, Record *out)
{
    const integers none = {0};
    integers lane = none, nan = none, posinf = none, neginf = none;
    doubles sum[PARTS] = {{0}}, sumsq[PARTS] = {{0}};
    vector least = (vector)none + (ELEMENT)INFINITY, greatest = (vector)none - (ELEMENT)INFINITY;
    for (size_t j = 0; j < LANES; j++) {
        lane[j] = (INTEGER)j;
    }
    for (size_t i = 0; i < n; i += LANES) {
        const char *here = data + i * sizeof(ELEMENT);
        integers bits = none, is_there = ~none;
        if (n - i >= LANES) {
            bits = *(const loose_integers *)here;
        } else {
            memcpy(&bits, here, (n - i) * sizeof(ELEMENT));
            is_there = lane < (INTEGER)(n - i); /* a comparison gives -1 where it holds */
        }
        const integers magnitude = bits & MAGNITUDE, is_finite = (magnitude < INFINITE) & is_there;
        nan -= magnitude > INFINITE;
        posinf -= bits == INFINITE;
        neginf -= bits == (INFINITE | ~MAGNITUDE);
        const integers clean = bits & is_finite;
        least = LESSER((vector)(clean | (INFINITE & ~is_finite)), least);
        greatest = GREATER((vector)(clean | ((INFINITE | ~MAGNITUDE) & ~is_finite)), greatest);
        for (int k = 0; k < PARTS; k++) {
            const doubles wide = __builtin_convertvector(((const part *)&clean)[k], doubles);
            sum[k] += wide;
            sumsq[k] += wide * wide;
        }
    }
    for (size_t j = 0; j < LANES; j++) {
        const size_t k = j / (LANES / PARTS), at = j % (LANES / PARTS);
        out->nan += (double)nan[j];
        out->posinf += (double)posinf[j];
        out->neginf += (double)neginf[j];
        out->sum += sum[k][at];
        out->sumsq += sumsq[k][at];
        out->min = (double)least[j] < out->min ? (double)least[j] : out->min;
        out->max = (double)greatest[j] > out->max ? (double)greatest[j] : out->max;
    }
}

TARGET static void TYPED(add)(const char *data, size_t n, Record *out)
{
    const size_t done = TYPED(add_finite)(data, n, out);
    if (done < n) {
        TYPED(add_any)(data + done * sizeof(ELEMENT), n - done, out);
    }
}

#undef TYPED
#undef vector
#undef loose
#undef part
#undef integers
#undef loose_integers
#undef doubles
#undef LESSER
#undef GREATER
#undef LANES
#undef ELEMENT
#undef INTEGER
#undef INFINITE
#undef MAGNITUDE
#undef PARTS
