#include "groups.h"

#include <string.h>

/* What `kept` holds of each tensor, one after another: this, its bytes, and what brings it to 8. */
typedef struct {
    uint64_t layout, size_bytes;
} Kept;

typedef struct {
    char *at, *end;
} Cursor;

/* The place for a tensor's copy, behind its heading. Where there is no room, a heading says that there is
 * none, and NULL is returned. */
static char *keep(Cursor *cursor, const Memory *memory)
{
    Kept kept = {0, 0};
    const size_t left = cursor->at == NULL ? 0 : (size_t)(cursor->end - cursor->at);
    const size_t padded = memory == NULL ? 0 : (memory->size_bytes + 7) / 8 * 8;
    if (left < sizeof kept) {
        cursor->at = NULL;
        return NULL;
    }
    const int has_room = memory != NULL && left - sizeof kept >= padded;
    if (has_room) {
        kept = (Kept){memory->layout, memory->size_bytes};
    }
    char *place = cursor->at + sizeof kept;
    memcpy(cursor->at, &kept, sizeof kept);
    cursor->at = has_room ? place + padded : place;
    return has_room ? place : NULL;
}

/* The copy that `keep` made of a tensor; NULL where there is none of its layout. */
static const char *find_kept(Cursor *cursor, const Memory *memory)
{
    Kept kept;
    if (cursor->at == NULL || (size_t)(cursor->end - cursor->at) < sizeof kept) {
        cursor->at = NULL;
        return NULL;
    }
    memcpy(&kept, cursor->at, sizeof kept);
    const char *copy = cursor->at + sizeof kept;
    const size_t room = sizeof kept + (kept.size_bytes + 7) / 8 * 8;
    cursor->at = (size_t)(cursor->end - cursor->at) < room ? NULL : cursor->at + room;
    const int is_same = cursor->at != NULL && memory != NULL && kept.layout == memory->layout
                        && kept.size_bytes == memory->size_bytes;
    return is_same ? copy : NULL;
}

typedef struct {
    Board board;
    PyObject *left;
    int is_change, is_keeping;
    Cursor cursor;
} Group;

/* Reduce one tensor of a group. Returns 1 when done, 0 when it is left to the caller, -1 on an error. */
static int add_member(Group *group, PyObject *tensor, PyObject *targets)
{
    Memory found;
    Measured measured;
    const Memory *memory = find_memory(tensor, &found) ? &found : NULL;
    const char *before = group->is_change ? find_kept(&group->cursor, memory) : NULL;
    char *copy = group->is_keeping ? keep(&group->cursor, memory) : NULL;
    if (memory == NULL || (group->is_change && before == NULL) || (group->is_keeping && copy == NULL)) {
        return 0;
    }
    if (!PyTuple_Check(targets)) {
        PyErr_SetString(PyExc_TypeError, "targets must be a list of tuples of rows");
        return -1;
    }
    reduce(memory, before, copy, group->board.is_full, &measured);
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
        Py_INCREF(tensor); /* another thread may change the lists while the lock is let go */
        Py_INCREF(rows);
        int outcome = add_member(group, tensor, rows);
        Py_DECREF(tensor);
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
    Group group = {board, PyList_New(0), is_change, has_kept && !is_change, {NULL, NULL}};
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
