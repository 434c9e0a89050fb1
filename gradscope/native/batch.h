/* Many tensors in one call: reduce, copy, and compare with the copies. */

#ifndef GRADSCOPE_BATCH_H
#define GRADSCOPE_BATCH_H

#include "rows.h"

/* add_each(rows, bins, tensors, targets, copies) -> indices of the tensors that were skipped */
PyObject *add_each(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* add_changes(rows, bins, tensors, targets, copies) -> indices of the tensors that were skipped */
PyObject *add_changes(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* add_gradients(rows, bins, parameters, targets) -> indices of the parameters whose gradient was skipped or None */
PyObject *add_gradients(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* are_finite(rows, targets) -> whether the last row of each target has no nonfinite elements */
PyObject *are_finite(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
