/* The nonfinite check: tests by their bits whether all gradients are finite. */

#ifndef GRADSCOPE_FINITE_H
#define GRADSCOPE_FINITE_H

#include "rows.h"

/* find_nonfinite(parameters) -> indices of the parameters whose gradient is not finite or cannot be read here */
PyObject *find_nonfinite(PyObject *self, PyObject *parameters);

/* Whether all gradients of an optimizer's parameters are known to be finite: 1, 0, or -1 with an exception. */
int are_gradients_finite(PyObject *optimizer);

/* Create the attribute names used here. Returns -1 with an exception. */
int intern_names(void);

#endif
