/* What the modules of a model own, as bytes: computed in each observed step, to notice that a model has changed. */

#ifndef GRADSCOPE_FINGERPRINT_H
#define GRADSCOPE_FINGERPRINT_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* owned_ids(references, name) -> bytes, as gradscope.hooks.structure makes them: for each module behind the weak
 * references, its class and the size of its dict of that name; then the ids of all values. Empty if a module is
 * gone or has no such dict. */
PyObject *owned_ids(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
