/* gradscope.native._native: reduces tensors directly into the rows of a row buffer.
 *
 * It uses Python's limited API and nothing of PyTorch's headers: the memory of a tensor comes from the DLPack
 * exchange functions that PyTorch publishes on its tensor class. The caller holds the tensor while its memory is
 * read; large tensors are read without the interpreter lock. A tensor that cannot be read here is reported and
 * left to the caller.
 */

#include "pack_histogram.h"
#include "finite.h"
#include "batch.h"
#include "fingerprint.h"
#include "rows.h"
#include "step_counter.h"
#include "native_hooks.h"

/* --- add(rows, bins, digests, tensor, row, *also) -> bool ---------------------------------------------- */

static PyObject *add(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    Memory memory;
    Statistics statistics;
    RowBuffer buffer;
    if (count < 5) {
        PyErr_SetString(PyExc_TypeError, "add(rows, bins, digests, tensor, row, *also)");
        return NULL;
    }
    if (find_row_buffer(args[0], args[1], args[2], &buffer) < 0) {
        return NULL;
    }
    if (!find_memory(args[3], &memory)) {
        Py_RETURN_FALSE;
    }
    reduce(&memory, NULL, NULL, wanted_by(&buffer), &statistics);
    for (Py_ssize_t i = 4; i < count; i++) {
        if (merge(&buffer, args[i], &statistics) < 0) {
            return NULL;
        }
    }
    Py_RETURN_TRUE;
}

/* --- digest(tensor) -> int | None --------------------------------------------------------------- */

static PyObject *digest_tensor(PyObject *Py_UNUSED(self), PyObject *tensor)
{
    Elements elements;
    if (!is_bound() || !find_elements(tensor, &elements)) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(digest_of(pass, &elements));
}

/* --- the module ----------------------------------------------------------------------------------- */

static PyObject *bind(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *capsule, *tensor, *parameter, *is_neg, *get_num_threads = Py_None;
    int number = 0;
    if (!PyArg_ParseTuple(args, "OOOO|iO", &capsule, &tensor, &parameter, &is_neg, &number,
                          &get_num_threads)) {
        return NULL;
    }
    const Pass *chosen = pass_number(number);
    if (chosen == NULL) {
        PyErr_SetString(PyExc_IndexError, "this processor runs no such pass");
        return NULL;
    }
    if (bind_memory(capsule, tensor, parameter, is_neg) < 0) {
        return NULL;
    }
    pass = chosen;
    bind_threads(get_num_threads);
    return PyUnicode_FromString(pass->name);
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS,
     "bind(exchange, tensor_type, parameter_type, is_neg, pass_number=0, get_num_threads=None)"
     " -> name of the pass"},
    {"add", (PyCFunction)(void (*)(void))add, METH_FASTCALL,
     "add(rows, bins, digests, tensor, row, *also) -> whether the tensor could be read here"},
    {"add_each", (PyCFunction)(void (*)(void))add_each, METH_FASTCALL,
     "add_each(rows, bins, digests, tensors, targets, kept) -> places of the tensors that were left"},
    {"add_changes", (PyCFunction)(void (*)(void))add_changes, METH_FASTCALL,
     "add_changes(rows, bins, digests, tensors, targets, kept) -> places of the tensors that were left"},
    {"are_finite", (PyCFunction)(void (*)(void))are_finite, METH_FASTCALL,
     "are_finite(rows, targets) -> whether only finite numbers were reduced into the last row of each"},
    {"add_gradients", (PyCFunction)(void (*)(void))add_gradients, METH_FASTCALL,
     "add_gradients(rows, bins, digests, parameters, targets) -> places of the gradients that were left"},
    {"digest", digest_tensor, METH_O, "digest(tensor) -> its digest; None if the tensor cannot be read here"},
    {"pack_bins", pack_histogram, METH_O, "pack_bins(bins) -> (five arrays of bytes, counts by width)"},
    {"owned_ids", (PyCFunction)(void (*)(void))owned_ids, METH_FASTCALL,
     "owned_ids(references, name) -> classes of modules and what each owns in its dict of that name"},
    {"find_nonfinite", find_nonfinite, METH_O,
     "find_nonfinite(parameters) -> places of those whose gradient is not finite, or cannot be read here"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        "gradscope.native._native",
                                        "Tensors reduced in one pass of C.",
                                        -1,
                                        methods,
                                        NULL,
                                        NULL,
                                        NULL,
                                        NULL};

/* The names of the columns, in order; NULL with an exception. */
static PyObject *make_column_names(void)
{
#define COLUMN_NAME(name, merge) #name,
    static const char *const names[] = {FOR_EACH_COLUMN(COLUMN_NAME)};
#undef COLUMN_NAME
    PyObject *columns = PyTuple_New(COLUMNS);
    for (Py_ssize_t i = 0; columns != NULL && i < COLUMNS; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL || PyTuple_SetItem(columns, i, name) < 0) {
            Py_CLEAR(columns);
        }
    }
    return columns;
}

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *columns = make_column_names();
    if (module == NULL || columns == NULL || intern_names() < 0 || add_native_hooks(module) < 0
        || add_counter(module) < 0 || PyModule_AddObjectRef(module, "COLUMNS", columns) < 0) {
        Py_XDECREF(columns);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(columns);
    return module;
}
