#include "groups.h"

#include "kept.h"

#include <string.h>

typedef struct {
    Board board;
    PyObject *left;
    PyObject *attribute; /* where it is not NULL, the tensors are this of what is listed */
    int is_change, is_keeping;
    Cursor cursor;
} Group;

/* Reduce one tensor of a group. Returns 1 when done, 0 when it is left to the caller, -1 on an error. */
static int add_member(Group *group, PyObject *tensor, PyObject *targets)
{
    Memory found;
    Measured measured;
    const int is_found = find_memory(tensor, &found);
    const Heading heading = {is_found ? found.layout : 0, is_found ? found.size_bytes : 0};
    const char *before = group->is_change ? find_kept(&group->cursor, is_found ? &heading : NULL) : NULL;
    char *copy = group->is_keeping ? keep(&group->cursor, is_found ? &heading : NULL) : NULL;
    if (!is_found || (group->is_change && before == NULL) || (group->is_keeping && copy == NULL)) {
        return 0;
    }
    if (!PyTuple_Check(targets)) {
        PyErr_SetString(PyExc_TypeError, "targets must be a list of tuples of rows");
        return -1;
    }
    reduce(&found, before, copy, group->board.bins != NULL, &measured);
    for (Py_ssize_t i = 0; i < PyTuple_Size(targets); i++) {
        if (merge(&group->board, PyTuple_GetItem(targets, i), &measured) < 0) {
            return -1;
        }
    }
    return 1;
}

/* Reduce the tensors of a list, and note the places of those that are left. */
static int add_members(Group *group, PyObject *tensors, PyObject *targets)
{
    for (Py_ssize_t i = 0; i < PyList_Size(tensors); i++) {
        PyObject *tensor = PyList_GetItem(tensors, i), *rows = PyList_GetItem(targets, i);
        if (tensor == NULL || rows == NULL) {
            return -1;
        }
        Py_INCREF(rows); /* another thread may change the lists while the lock is let go */
        tensor = group->attribute == NULL ? Py_NewRef(tensor) : PyObject_GetAttr(tensor, group->attribute);
        int outcome = tensor == NULL ? -1 : add_member(group, tensor, rows);
        Py_XDECREF(tensor);
        Py_DECREF(rows);
        if (outcome == 0) {
            PyObject *place = PyLong_FromSsize_t(i);
            outcome = place == NULL ? -1 : PyList_Append(group->left, place);
            Py_XDECREF(place);
        }
        if (outcome < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *add_group(PyObject *const *args, Py_ssize_t count, int is_change, const char *usage)
{
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, usage);
        return NULL;
    }
    Board board;
    if (find_board(args[0], args[1], &board) < 0) {
        return NULL;
    }
    if (!PyList_Check(args[2]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "tensors and targets must be lists");
        return NULL;
    }
    Py_buffer kept;
    const int has_kept = args[4] != Py_None;
    Group group = {board, PyList_New(0), NULL, is_change, has_kept && !is_change, {NULL, NULL}};
    if (group.left == NULL
        || (has_kept && PyObject_GetBuffer(args[4], &kept, is_change ? PyBUF_SIMPLE : PyBUF_WRITABLE) < 0)) {
        Py_XDECREF(group.left);
        return NULL;
    }
    if (has_kept) {
        group.cursor = (Cursor){kept.buf, (char *)kept.buf + kept.len};
    }
    const int outcome = add_members(&group, args[2], args[3]);
    if (has_kept) {
        PyBuffer_Release(&kept);
    }
    if (outcome < 0) {
        Py_DECREF(group.left);
        return NULL;
    }
    return group.left;
}

PyObject *add_each(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    return add_group(args, count, 0, "add_each(rows, bins, tensors, targets, kept)");
}

PyObject *add_changes(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    return add_group(args, count, 1, "add_changes(rows, bins, tensors, targets, kept)");
}

PyObject *add_gradients(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    Board board;
    if (count != 4 || !PyList_Check(args[2]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "add_gradients(rows, bins, parameters, targets)");
        return NULL;
    }
    if (find_board(args[0], args[1], &board) < 0) {
        return NULL;
    }
    PyObject *attribute = PyUnicode_InternFromString("grad");
    Group group = {board, PyList_New(0), attribute, 0, 0, {NULL, NULL}};
    const int outcome = attribute == NULL || group.left == NULL ? -1 : add_members(&group, args[2], args[3]);
    Py_XDECREF(attribute);
    if (outcome < 0) {
        Py_CLEAR(group.left);
    }
    return group.left;
}

/* Whether a row has counted nothing that is not finite; -1 with an exception. */
static int is_row_finite(PyObject *rows, PyObject *number)
{
    const Py_ssize_t row = PyLong_AsSsize_t(number);
    if (row == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (row < 0 || row >= PyByteArray_Size(rows) / (Py_ssize_t)sizeof(Record)) {
        PyErr_Format(PyExc_IndexError, "row %zd is not on the board", row);
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
        const int is_fine = is_row_finite(args[0], PyTuple_GetItem(target, PyTuple_Size(target) - 1));
        if (is_fine <= 0) {
            return is_fine < 0 ? NULL : PyBool_FromLong(0);
        }
    }
    Py_RETURN_TRUE;
}
