#include "rows.h"

#include <string.h>

const Pass *pass;

/* Merge a record into a row. The bytes are looked up anew: others may have grown them meanwhile. */
int merge(PyObject *rows, PyObject *number, const Record *record)
{
    const Py_ssize_t row = PyLong_AsSsize_t(number);
    if (row == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (row < 0 || row >= PyByteArray_Size(rows) / (Py_ssize_t)sizeof(Record)) {
        PyErr_Format(PyExc_IndexError, "row %zd is not on the board", row);
        return -1;
    }
    Record sum;
    char *place = PyByteArray_AsString(rows) + row * (Py_ssize_t)sizeof(Record);
    memcpy(&sum, place, sizeof sum);
    sum.calls += record->calls;
    sum.count += record->count;
    sum.nan += record->nan;
    sum.posinf += record->posinf;
    sum.neginf += record->neginf;
    sum.zero += record->zero;
    sum.subnormal += record->subnormal;
    sum.sum += record->sum;
    sum.sumsq += record->sumsq;
    sum.min = record->min < sum.min ? record->min : sum.min;
    sum.max = record->max > sum.max ? record->max : sum.max;
    memcpy(place, &sum, sizeof sum);
    return 0;
}

/* Reduce memory, or its change since `before`; where `copy` is given, copy it there. */
void reduce(const Memory *memory, const char *before, char *copy, int is_full, Record *record)
{
    PyThreadState *state = memory->size_bytes >= LARGE_BYTES ? PyEval_SaveThread() : NULL;
    if (before != NULL) {
        pass->reduce_change(memory->data, before, memory->stored, memory->dtype, is_full, record);
    } else {
        pass->reduce(memory->data, memory->stored, memory->dtype, is_full, record);
    }
    if (copy != NULL) {
        memcpy(copy, memory->data, memory->size_bytes);
    }
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    record->count *= memory->repeats;
    record->nan *= memory->repeats;
    record->posinf *= memory->repeats;
    record->neginf *= memory->repeats;
    record->zero *= is_full ? memory->repeats : 0;
    record->subnormal *= is_full ? memory->repeats : 0;
    record->sum *= memory->repeats;
    record->sumsq *= memory->repeats;
}

int is_board(PyObject *rows)
{
    if (!is_bound()) {
        PyErr_SetString(PyExc_RuntimeError, "bind() has not been called");
        return 0;
    }
    if (!PyByteArray_Check(rows)) {
        PyErr_SetString(PyExc_TypeError, "rows must be a bytearray");
        return 0;
    }
    return 1;
}
