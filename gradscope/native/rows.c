#include "rows.h"

#include <limits.h>
#include <string.h>

const Pass *pass;

/* A bytearray need not be aligned for uint64. */
static void merge_bins(char *place, const uint64_t *bins)
{
    uint64_t sum[BINS];
    memcpy(sum, place, sizeof sum);
    for (int i = 0; i < BINS; i++) {
        sum[i] += bins[i];
    }
    memcpy(place, sum, sizeof sum);
}

/* The address is read again, because the bytearrays may have grown. */
int merge_row(const RowBuffer *buffer, Py_ssize_t row, const Statistics *statistics)
{
    const int has_bins = buffer->bins != NULL;
    const int has_digest = buffer->digests != NULL;
    if (row < 0 || row >= PyByteArray_Size(buffer->rows) / (Py_ssize_t)sizeof(Record)
        || (has_bins && row >= PyByteArray_Size(buffer->bins) / (Py_ssize_t)sizeof statistics->bins)
        || (has_digest && row >= PyByteArray_Size(buffer->digests) / (Py_ssize_t)sizeof(uint64_t))) {
        PyErr_Format(PyExc_IndexError, "row %zd is outside of the row buffer", row);
        return -1;
    }
    Record sum;
    char *place = PyByteArray_AsString(buffer->rows) + row * (Py_ssize_t)sizeof(Record);
    memcpy(&sum, place, sizeof sum);
    merge_record(&sum, &statistics->record);
    memcpy(place, &sum, sizeof sum);
    if (has_bins) {
        place = PyByteArray_AsString(buffer->bins) + row * (Py_ssize_t)sizeof statistics->bins;
        merge_bins(place, statistics->bins);
    }
    if (has_digest) {
        uint64_t digest;
        place = PyByteArray_AsString(buffer->digests) + row * (Py_ssize_t)sizeof digest;
        memcpy(&digest, place, sizeof digest);
        digest += statistics->digest;
        memcpy(place, &digest, sizeof digest);
    }
    return 0;
}

int merge(const RowBuffer *buffer, PyObject *number, const Statistics *statistics)
{
    const Py_ssize_t row = PyLong_AsSsize_t(number);
    return row == -1 && PyErr_Occurred() ? -1 : merge_row(buffer, row, statistics);
}

static PyObject *threads;

void bind_threads(PyObject *get_num_threads)
{
    PyObject *old = threads;
    threads = get_num_threads == Py_None ? NULL : Py_NewRef(get_num_threads);
    Py_XDECREF(old);
    find_thread_pool();
}

int threads_for(size_t size_bytes)
{
    if (size_bytes < PARALLEL_MIN_BYTES || threads == NULL) {
        return 1;
    }
    PyObject *answer = PyObject_CallNoArgs(threads);
    const long number = answer == NULL ? 1 : PyLong_AsLong(answer);
    Py_XDECREF(answer);
    PyErr_Clear();
    return number > 1 && number <= INT_MAX ? (int)number : 1;
}

void reduce(const Memory *memory, const char *before, char *copy, int wanted, Statistics *statistics)
{
    uint64_t *bins = statistics->bins;
    const Span span = {memory->data, before, copy, memory->stored, memory->dtype};
    const int count = threads_for(memory->size_bytes);
    PyThreadState *state = memory->size_bytes >= LARGE_BYTES ? PyEval_SaveThread() : NULL;
    const int is_ordered = is_in_order(&memory->elements);
    reduce_parallel(pass, &span, is_ordered ? wanted : wanted & ~WITH_DIGEST, count, statistics);
    if (wanted & WITH_DIGEST && !is_ordered) {
        statistics->digest = digest_of(pass, &memory->elements);
    }
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    repeat_record(&statistics->record, memory->repeats);
    for (int i = 0; wanted & WITH_BINS && i < BINS; i++) {
        bins[i] *= (uint64_t)memory->repeats;
    }
}

static int is_bytearray_or_none(PyObject *object)
{
    return object == Py_None || PyByteArray_Check(object);
}

int wanted_by(const RowBuffer *buffer)
{
    return (buffer->bins != NULL ? WITH_BINS : 0) | (buffer->digests != NULL ? WITH_DIGEST : 0);
}

int find_row_buffer(PyObject *rows, PyObject *bins, PyObject *digests, RowBuffer *buffer)
{
    if (!is_bound()) {
        PyErr_SetString(PyExc_RuntimeError, "bind() has not been called");
        return -1;
    }
    if (!PyByteArray_Check(rows) || !is_bytearray_or_none(bins) || !is_bytearray_or_none(digests)) {
        PyErr_SetString(PyExc_TypeError, "rows must be a bytearray, and bins and digests others or None");
        return -1;
    }
    *buffer = (RowBuffer){rows, bins == Py_None ? NULL : bins, digests == Py_None ? NULL : digests};
    return 0;
}
