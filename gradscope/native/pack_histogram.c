#include "pack_histogram.h"

#include "record.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIGNS = 2,
    OF_SIGN = BINS / SIGNS,
    ARRAYS = 5, /* first bins, both signs; lengths, both signs; bytes of a count */
    WIDTHS = 4,
};

/* Counts of one width so far. */
typedef struct {
    char *data;
    size_t used, capacity;
} Bytes;

typedef struct {
    unsigned char *ranges; /* ARRAYS arrays of `rows` elements each */
    size_t rows;
    Bytes counts[WIDTHS];
} Packed;

/* The range of used bins of one sign, and the bitwise OR of its counts. */
static void find_used_range(const uint64_t *bins, size_t *first, size_t *length, uint64_t *bits)
{
    size_t begin = 0, end = OF_SIGN;
    while (end > 0 && bins[end - 1] == 0) {
        end--;
    }
    while (begin < end && bins[begin] == 0) {
        begin++;
    }
    for (size_t i = begin; i < end; i++) {
        *bits |= bins[i];
    }
    *first = end ? begin : 0;
    *length = end - begin;
}

static int width_of(uint64_t bits)
{
    return bits >> 32 ? 8 : bits >> 16 ? 4 : bits >> 8 ? 2 : bits ? 1 : 0;
}

#define WRITE_COUNTS(type)                                   \
    for (size_t i = 0; i < n; i++) {                         \
        const type count = (type)bins[i];                    \
        memcpy(to + i * sizeof count, &count, sizeof count); \
    }

static void write_counts(char *to, const uint64_t *bins, size_t n, int width)
{
    if (width == 8) {
        WRITE_COUNTS(uint64_t)
    } else if (width == 4) {
        WRITE_COUNTS(uint32_t)
    } else if (width == 2) {
        WRITE_COUNTS(uint16_t)
    } else {
        WRITE_COUNTS(uint8_t)
    }
}

/* Reserve `size` more bytes; NULL if there is no memory. */
static char *reserve(Bytes *bytes, size_t size)
{
    if (bytes->used + size > bytes->capacity) {
        const size_t capacity = 2 * (bytes->used + size) + 4096;
        char *data = realloc(bytes->data, capacity);
        if (data == NULL) {
            return NULL;
        }
        bytes->data = data;
        bytes->capacity = capacity;
    }
    char *place = bytes->data + bytes->used;
    bytes->used += size;
    return place;
}

static int pack_row(Packed *packed, size_t row, const uint64_t *bins)
{
    size_t first[SIGNS], length[SIGNS];
    uint64_t bits = 0;
    for (size_t sign = 0; sign < SIGNS; sign++) {
        find_used_range(bins + sign * OF_SIGN, &first[sign], &length[sign], &bits);
        packed->ranges[sign * packed->rows + row] = (unsigned char)first[sign];
        packed->ranges[(SIGNS + sign) * packed->rows + row] = (unsigned char)length[sign];
    }
    const int width = width_of(bits);
    packed->ranges[2 * SIGNS * packed->rows + row] = (unsigned char)width;
    if (width == 0) {
        return 0;
    }
    Bytes *counts = &packed->counts[width == 8 ? 0 : width == 4 ? 1 : width == 2 ? 2 : 3];
    for (size_t sign = 0; sign < SIGNS; sign++) {
        if (length[sign] == 0) {
            continue;
        }
        char *place = reserve(counts, length[sign] * (size_t)width);
        if (place == NULL) {
            return -1;
        }
        write_counts(place, bins + sign * OF_SIGN + first[sign], length[sign], width);
    }
    return 0;
}

/* Pack all rows without the interpreter lock. */
static int pack_rows(Packed *packed, const char *bins)
{
    int outcome = 0;
    Py_BEGIN_ALLOW_THREADS
    for (size_t row = 0; outcome == 0 && row < packed->rows; row++) {
        uint64_t of_row[BINS];
        memcpy(of_row, bins + row * sizeof of_row, sizeof of_row);
        outcome = pack_row(packed, row, of_row);
    }
    Py_END_ALLOW_THREADS
    return outcome;
}

static PyObject *as_python(const Packed *packed)
{
    PyObject *counts = PyTuple_New(WIDTHS);
    for (Py_ssize_t i = 0; counts != NULL && i < WIDTHS; i++) {
        const Bytes *bytes = &packed->counts[i];
        PyObject *each = PyBytes_FromStringAndSize(bytes->data, (Py_ssize_t)bytes->used);
        if (each == NULL || PyTuple_SetItem(counts, i, each) < 0) {
            Py_CLEAR(counts);
        }
    }
    PyObject *ranges = PyBytes_FromStringAndSize((char *)packed->ranges, (Py_ssize_t)(ARRAYS * packed->rows));
    PyObject *both = ranges == NULL || counts == NULL ? NULL : PyTuple_Pack(2, ranges, counts);
    Py_XDECREF(ranges);
    Py_XDECREF(counts);
    return both;
}

PyObject *pack_histogram(PyObject *Py_UNUSED(self), PyObject *bins)
{
    Py_buffer given;
    if (PyObject_GetBuffer(bins, &given, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    const size_t row_bytes = BINS * sizeof(uint64_t);
    Packed packed = {NULL, (size_t)given.len / row_bytes, {{NULL, 0, 0}}};
    packed.ranges = malloc(ARRAYS * packed.rows + 1);
    PyObject *both = NULL;
    if ((size_t)given.len % row_bytes != 0) {
        PyErr_SetString(PyExc_ValueError, "bins must be 128 uint64 a row");
    } else if (packed.ranges == NULL || pack_rows(&packed, given.buf) < 0) {
        PyErr_NoMemory();
    } else {
        both = as_python(&packed);
    }
    PyBuffer_Release(&given);
    free(packed.ranges);
    for (int i = 0; i < WIDTHS; i++) {
        free(packed.counts[i].data);
    }
    return both;
}
