#include "batch.h"

#include "param_copies.h"

#include <string.h>

typedef struct {
    RowBuffer buffer;
    PyObject *left;
    PyObject *attribute; /* if not NULL, the tensors are this attribute of the listed objects */
    int is_change, is_copying;
    CopyCursor cursor;
} Batch;

/* Reduce one tensor of a batch. Returns 1 if reduced, 0 if skipped, -1 with an exception. */
static int add_tensor(Batch *batch, PyObject *tensor, PyObject *targets)
{
    Memory found;
    Statistics statistics;
    const int is_found = find_memory(tensor, &found);
    const CopyHeader header = {is_found ? found.layout : 0, is_found ? found.size_bytes : 0};
    const char *before = batch->is_change ? find_copy(&batch->cursor, is_found ? &header : NULL) : NULL;
    char *copy = batch->is_copying ? reserve_copy(&batch->cursor, is_found ? &header : NULL) : NULL;
    if (!is_found || (batch->is_change && before == NULL) || (batch->is_copying && copy == NULL)) {
        return 0;
    }
    if (!PyTuple_Check(targets)) {
        PyErr_SetString(PyExc_TypeError, "targets must be a list of tuples of rows");
        return -1;
    }
    reduce(&found, before, copy, wanted_by(&batch->buffer), &statistics);
    for (Py_ssize_t i = 0; i < PyTuple_Size(targets); i++) {
        if (merge(&batch->buffer, PyTuple_GetItem(targets, i), &statistics) < 0) {
            return -1;
        }
    }
    return 1;
}

/* Reduce the tensors of a list, and append the indices of skipped ones to `left`. */
static int add_tensors(Batch *batch, PyObject *tensors, PyObject *targets)
{
    for (Py_ssize_t i = 0; i < PyList_Size(tensors); i++) {
        PyObject *tensor = PyList_GetItem(tensors, i), *rows = PyList_GetItem(targets, i);
        if (tensor == NULL || rows == NULL) {
            return -1;
        }
        Py_INCREF(rows); /* another thread may change the lists while the lock is released */
        tensor = batch->attribute == NULL ? Py_NewRef(tensor) : PyObject_GetAttr(tensor, batch->attribute);
        int outcome = tensor == NULL ? -1 : add_tensor(batch, tensor, rows);
        Py_XDECREF(tensor);
        Py_DECREF(rows);
        if (outcome == 0) {
            PyObject *place = PyLong_FromSsize_t(i);
            outcome = place == NULL ? -1 : PyList_Append(batch->left, place);
            Py_XDECREF(place);
        }
        if (outcome < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *add_batch(PyObject *const *args, Py_ssize_t count, int is_change, const char *usage)
{
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, usage);
        return NULL;
    }
    RowBuffer buffer;
    if (find_row_buffer(args[0], args[1], args[2], &buffer) < 0) {
        return NULL;
    }
    if (!PyList_Check(args[3]) || !PyList_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "tensors and targets must be lists");
        return NULL;
    }
    Py_buffer copies;
    const int has_copies = args[5] != Py_None;
    Batch batch = {buffer, PyList_New(0), NULL, is_change, has_copies && !is_change, {NULL, NULL}};
    if (batch.left == NULL
        || (has_copies
            && PyObject_GetBuffer(args[5], &copies, is_change ? PyBUF_SIMPLE : PyBUF_WRITABLE) < 0)) {
        Py_XDECREF(batch.left);
        return NULL;
    }
    if (has_copies) {
        batch.cursor = (CopyCursor){copies.buf, (char *)copies.buf + copies.len};
    }
    const int outcome = add_tensors(&batch, args[3], args[4]);
    if (has_copies) {
        PyBuffer_Release(&copies);
    }
    if (outcome < 0) {
        Py_DECREF(batch.left);
        return NULL;
    }
    return batch.left;
}

PyObject *add_each(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    return add_batch(args, count, 0, "add_each(rows, bins, digests, tensors, targets, kept)");
}

PyObject *add_changes(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    return add_batch(args, count, 1, "add_changes(rows, bins, digests, tensors, targets, kept)");
}

PyObject *add_gradients(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    RowBuffer buffer;
    if (count != 5 || !PyList_Check(args[3]) || !PyList_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "add_gradients(rows, bins, digests, parameters, targets)");
        return NULL;
    }
    if (find_row_buffer(args[0], args[1], args[2], &buffer) < 0) {
        return NULL;
    }
    PyObject *attribute = PyUnicode_InternFromString("grad");
    Batch batch = {buffer, PyList_New(0), attribute, 0, 0, {NULL, NULL}};
    const int outcome = attribute == NULL || batch.left == NULL ? -1 : add_tensors(&batch, args[3], args[4]);
    Py_XDECREF(attribute);
    if (outcome < 0) {
        Py_CLEAR(batch.left);
    }
    return batch.left;
}

/* Returns 1 if a row has no nonfinite elements, 0 if it has some, -1 with an exception. */
static int is_row_finite(PyObject *rows, PyObject *number)
{
    const Py_ssize_t row = PyLong_AsSsize_t(number);
    if (row == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (row < 0 || row >= PyByteArray_Size(rows) / (Py_ssize_t)sizeof(Record)) {
        PyErr_Format(PyExc_IndexError, "row %zd is outside of the row buffer", row);
        return -1;
    }
    Record record;
    memcpy(&record, PyByteArray_AsString(rows) + row * (Py_ssize_t)sizeof record, sizeof record);
    return record.nan == 0 && record.posinf == 0 && record.neginf == 0;
}

PyObject *are_finite(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyByteArray_Check(args[0]) || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "are_finite(rows, targets)");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(args[1]); i++) {
        PyObject *target = PyList_GetItem(args[1], i);
        if (!PyTuple_Check(target) || PyTuple_Size(target) == 0) {
            PyErr_SetString(PyExc_TypeError, "targets must be a list of tuples of rows");
            return NULL;
        }
        const int is_finite_row = is_row_finite(args[0], PyTuple_GetItem(target, PyTuple_Size(target) - 1));
        if (is_finite_row <= 0) {
            return is_finite_row < 0 ? NULL : PyBool_FromLong(0);
        }
    }
    Py_RETURN_TRUE;
}
