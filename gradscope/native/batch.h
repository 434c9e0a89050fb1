/* Many tensors at a time: reduced, copied, and compared with their copies. */

#ifndef GRADSCOPE_BATCH_H
#define GRADSCOPE_BATCH_H

#include "rows.h"

/* add_each(rows, bins, tensors, targets, kept) -> places of the tensors that were left */
PyObject *add_each(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* add_changes(rows, bins, tensors, targets, kept) -> places of the tensors that were left */
PyObject *add_changes(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* add_gradients(rows, bins, parameters, targets) -> places of the parameters whose gradient was left, be it
 * that they have none */
PyObject *add_gradients(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* are_finite(rows, targets) -> whether nothing that is not finite was reduced into the last row of each */
PyObject *are_finite(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
