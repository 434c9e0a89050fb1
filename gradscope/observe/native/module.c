/* gradscope.observe._native: tensors reduced straight into the rows of a board.
 *
 * Python's limited API only, and nothing of PyTorch's: a tensor's memory is asked for through the exchange
 * functions of DLPack that PyTorch publishes on its tensor class. Memory is read while the caller holds the
 * tensor; large tensors are read without the interpreter's lock. What cannot be read here, for whatever
 * reason, is said to be so, and left to the caller.
 */

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdint.h>
#include <string.h>

#include "memory.h"
#include "record.h"

static const Pass *pass; /* chosen by bind() */

/* --- rows ------------------------------------------------------------------------------------------- */

/* Merge a record into a row. The bytes are looked up anew: others may have grown them meanwhile. */
static int merge(PyObject *rows, PyObject *number, const Record *record)
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

enum { LARGE_BYTES = 1 << 18 };

/* Reduce memory, or its change since `before`; where `copy` is given, copy it there. */
static void reduce(const Memory *memory, const char *before, char *copy, int is_full, Record *record)
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

static int is_board(PyObject *rows)
{
    if (tensor_from_object == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "bind() has not been called");
        return 0;
    }
    if (!PyByteArray_Check(rows)) {
        PyErr_SetString(PyExc_TypeError, "rows must be a bytearray");
        return 0;
    }
    return 1;
}

/* --- add(rows, is_full, tensor, row, *also) -> bool ---------------------------------------------- */

static PyObject *add(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    Memory memory;
    Record record;
    if (count < 4) {
        PyErr_SetString(PyExc_TypeError, "add(rows, is_full, tensor, row, *also)");
        return NULL;
    }
    if (!is_board(args[0])) {
        return NULL;
    }
    if (!find_memory(args[2], &memory)) {
        Py_RETURN_FALSE;
    }
    reduce(&memory, NULL, NULL, args[1] == Py_True, &record);
    for (Py_ssize_t i = 3; i < count; i++) {
        if (merge(args[0], args[i], &record) < 0) {
            return NULL;
        }
    }
    Py_RETURN_TRUE;
}

/* --- many tensors at a time ----------------------------------------------------------------------- */

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
    PyObject *rows, *left;
    int is_full, is_change, is_keeping;
    Cursor cursor;
} Group;

/* Reduce one tensor of a group. Returns 1 when done, 0 when it is left to the caller, -1 on an error. */
static int add_member(Group *group, PyObject *tensor, PyObject *targets)
{
    Memory found;
    Record record;
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
    reduce(memory, before, copy, group->is_full, &record);
    for (Py_ssize_t i = 0; i < PyTuple_Size(targets); i++) {
        if (merge(group->rows, PyTuple_GetItem(targets, i), &record) < 0) {
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
    if (!is_board(args[0])) {
        return NULL;
    }
    if (!PyList_Check(args[2]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "tensors and targets must be lists");
        return NULL;
    }
    Py_buffer kept;
    const int has_kept = args[4] != Py_None;
    Group group = {args[0], PyList_New(0), args[1] == Py_True, is_change, has_kept && !is_change, {NULL, NULL}};
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

static PyObject *add_each(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    return add_group(args, count, 0, "add_each(rows, is_full, tensors, targets, kept)");
}

static PyObject *add_changes(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    return add_group(args, count, 1, "add_changes(rows, is_full, tensors, targets, kept)");
}

/* --- find_suspects(tensors) -> places ------------------------------------------------------------- */

/* The places of the tensors that are not finite throughout, and of those that cannot be read here. */
static PyObject *find_suspects(PyObject *Py_UNUSED(self), PyObject *tensors)
{
    if (tensor_from_object == NULL || !PyList_Check(tensors)) {
        PyErr_SetString(PyExc_TypeError, "find_suspects takes a list of tensors, once bind() has been called");
        return NULL;
    }
    PyObject *suspects = PyList_New(0);
    for (Py_ssize_t i = 0; suspects != NULL && i < PyList_Size(tensors); i++) {
        Memory memory;
        PyObject *tensor = Py_NewRef(PyList_GetItem(tensors, i));
        int is_fine = find_memory(tensor, &memory);
        if (is_fine) {
            PyThreadState *state = memory.size_bytes >= LARGE_BYTES ? PyEval_SaveThread() : NULL;
            is_fine = pass->is_finite(memory.data, memory.stored, memory.dtype);
            if (state != NULL) {
                PyEval_RestoreThread(state);
            }
        }
        Py_DECREF(tensor);
        PyObject *place = is_fine ? NULL : PyLong_FromSsize_t(i);
        if (!is_fine && (place == NULL || PyList_Append(suspects, place) < 0)) {
            Py_CLEAR(suspects);
        }
        Py_XDECREF(place);
    }
    return suspects;
}

/* --- the module ----------------------------------------------------------------------------------- */

static PyObject *bind(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *capsule, *tensor, *parameter, *asks_neg;
    int number = 0;
    if (!PyArg_ParseTuple(args, "OOOO|i", &capsule, &tensor, &parameter, &asks_neg, &number)) {
        return NULL;
    }
    const DLExchange *exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (exchange == NULL) {
        return NULL;
    }
    if (exchange->header.version.major != DL_MAJOR || exchange->tensor_from_object == NULL) {
        PyErr_SetString(PyExc_ImportError, "PyTorch's DLPack exchange is of another version");
        return NULL;
    }
    if ((pass = pass_number(number)) == NULL) {
        PyErr_SetString(PyExc_IndexError, "this processor runs no such pass");
        return NULL;
    }
    tensor_from_object = exchange->tensor_from_object;
    PyObject *old[] = {tensor_type, parameter_type, is_neg};
    tensor_type = Py_NewRef(tensor);
    parameter_type = Py_NewRef(parameter);
    is_neg = Py_NewRef(asks_neg);
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(old[i]);
    }
    return PyUnicode_FromString(pass->name);
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS,
     "bind(exchange, tensor_type, parameter_type, is_neg, pass_number=0) -> name of the pass"},
    {"add", (PyCFunction)(void (*)(void))add, METH_FASTCALL,
     "add(rows, is_full, tensor, row, *also) -> whether the tensor could be read here"},
    {"add_each", (PyCFunction)(void (*)(void))add_each, METH_FASTCALL,
     "add_each(rows, is_full, tensors, targets, kept) -> places of the tensors that were left"},
    {"add_changes", (PyCFunction)(void (*)(void))add_changes, METH_FASTCALL,
     "add_changes(rows, is_full, tensors, targets, kept) -> places of the tensors that were left"},
    {"find_suspects", find_suspects, METH_O,
     "find_suspects(tensors) -> places of the tensors that are not finite, or cannot be read here"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "gradscope.observe._native", "Tensors reduced in one pass of C.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *columns = Py_BuildValue("(sssssssssss)", "calls", "count", "nan", "posinf", "neginf", "zero",
                                      "subnormal", "sum", "sumsq", "min", "max");
    if (module == NULL || columns == NULL || PyModule_AddObjectRef(module, "COLUMNS", columns) < 0) {
        Py_XDECREF(columns);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(columns);
    return module;
}
