#include "fingerprint.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t *ids;
    size_t used, capacity;
} Ids;

static int append(Ids *list, uint64_t id)
{
    if (list->used == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 1024;
        uint64_t *ids = PyMem_Realloc(list->ids, capacity * sizeof *ids);
        if (ids == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->used++] = id;
    return 0;
}

/* Append the ids of one module's objects to `values`, and the id of its class and their number to `heads`. Returns 0
 * if this is not possible, -1 with an exception. */
static int append_module(Ids *heads, Ids *values, PyObject *reference, PyObject *name)
{
    PyObject *module = PyWeakref_GetObject(reference);
    if (module == NULL || module == Py_None) {
        return module == NULL ? -1 : 0;
    }
    Py_INCREF(module);
    const uint64_t class = (uintptr_t)Py_TYPE(module);
    PyObject *owned = PyObject_GetAttr(module, name), *key, *value;
    Py_DECREF(module);
    if (owned == NULL) {
        return -1;
    }
    Py_ssize_t at = 0;
    int outcome = PyDict_Check(owned);
    if (outcome && (append(heads, class) < 0 || append(heads, (uint64_t)PyDict_Size(owned)) < 0)) {
        outcome = -1;
    }
    while (outcome > 0 && PyDict_Next(owned, &at, &key, &value)) {
        outcome = append(values, (uintptr_t)value) < 0 ? -1 : 1;
    }
    Py_DECREF(owned);
    return outcome;
}

PyObject *owned_ids(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyList_Check(args[0]) || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "owned_ids takes a list of weak references, and a name");
        return NULL;
    }
    Ids heads = {NULL, 0, 0}, values = {NULL, 0, 0};
    int outcome = 1;
    for (Py_ssize_t i = 0; outcome > 0 && i < PyList_Size(args[0]); i++) {
        outcome = append_module(&heads, &values, PyList_GetItem(args[0], i), args[1]);
    }
    PyObject *ids = NULL;
    if (outcome >= 0) {
        const size_t used = outcome ? heads.used + values.used : 0;
        ids = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(used * sizeof(uint64_t)));
        if (ids != NULL && used > 0) {
            char *to = PyBytes_AsString(ids);
            memcpy(to, heads.ids, heads.used * sizeof(uint64_t));
            if (values.used > 0) {
                memcpy(to + heads.used * sizeof(uint64_t), values.ids, values.used * sizeof(uint64_t));
            }
        }
    }
    PyMem_Free(heads.ids);
    PyMem_Free(values.ids);
    return ids;
}
