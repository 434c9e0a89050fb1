/* The ids of the objects that a model's modules own, as bytes: computed in each observed step to detect changes. */

#ifndef GRADSCOPE_FINGERPRINT_H
#define GRADSCOPE_FINGERPRINT_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* owned_ids(references, name) -> bytes, in the format of gradscope.hooks.structure: for each module behind the weak
 * references, its class and the size of its dict of that name; then the ids of all values. Empty if a module was
 * freed or has no such dict. */
PyObject *owned_ids(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
