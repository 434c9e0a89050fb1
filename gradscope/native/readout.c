#include "readout.h"

#include <math.h>
#include <string.h>

enum {
    COLUMNS = sizeof(Record) / sizeof(double),
    COUNTS = 7, /* the first of them are whole */
};

static const Record empty_row = {.min = INFINITY, .max = -INFINITY};

/* Lay n rows out by column. */
static void transpose_rows(const char *rows, size_t n, char *columns)
{
    for (size_t i = 0; i < n; i++) {
        double row[COLUMNS];
        memcpy(row, rows + i * sizeof row, sizeof row);
        for (size_t k = 0; k < COLUMNS; k++) {
            const uint64_t whole = k < COUNTS ? (uint64_t)row[k] : 0;
            memcpy(columns + (k * n + i) * 8, k < COUNTS ? (const void *)&whole : (const void *)&row[k], 8);
        }
    }
}

static void find_flags(const char *rows, const char *flags, const char *expected, int missing, size_t n,
                       char *out)
{
    for (size_t i = 0; i < n; i++) {
        double calls;
        memcpy(&calls, rows + i * sizeof(Record), sizeof calls);
        out[i] = (char)(flags[i] | (expected[i] && calls == 0 ? missing : 0));
    }
}

static void empty(char *rows, char *flags, char *expected, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        memcpy(rows + i * sizeof empty_row, &empty_row, sizeof empty_row);
    }
    memset(flags, 0, n);
    memset(expected, 0, n);
}

PyObject *readout(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyByteArray_Check(args[0]) || !PyByteArray_Check(args[1])
        || !PyByteArray_Check(args[2]) || !PyLong_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "harvest(rows, flags, expected, missing, is_taken)");
        return NULL;
    }
    const long missing = PyLong_AsLong(args[3]);
    if (missing == -1 && PyErr_Occurred()) {
        return NULL;
    }
    const Py_ssize_t n = PyByteArray_Size(args[1]);
    if (PyByteArray_Size(args[0]) != n * (Py_ssize_t)sizeof(Record) || PyByteArray_Size(args[2]) != n) {
        PyErr_SetString(PyExc_ValueError, "rows, flags and expected must be of as many rows");
        return NULL;
    }
    PyObject *taken = PyByteArray_FromStringAndSize(NULL, n * (Py_ssize_t)(sizeof(Record) + 1));
    if (taken == NULL) {
        return NULL;
    }
    char *rows = PyByteArray_AsString(args[0]), *flags = PyByteArray_AsString(args[1]);
    char *expected = PyByteArray_AsString(args[2]), *out = PyByteArray_AsString(taken);
    transpose_rows(rows, (size_t)n, out);
    find_flags(rows, flags, expected, (int)missing, (size_t)n, out + n * (Py_ssize_t)sizeof(Record));
    if (args[4] == Py_True) {
        empty(rows, flags, expected, (size_t)n);
    }
    return taken;
}
