/* Fast-path guards: PyTorch functions and the values that they must return. */

#ifndef GRADSCOPE_GUARDS_H
#define GRADSCOPE_GUARDS_H

#include "rows.h"

/* Whether each function of a tuple of (function, value) pairs returns its value; -1 with an exception. */
static inline int guards_hold(PyObject *guards)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(guards); i++) {
        PyObject *pair = PyTuple_GetItem(guards, i);
        PyObject *answer = PyObject_CallNoArgs(PyTuple_GetItem(pair, 0));
        Py_XDECREF(answer); /* only compared, with objects that are never freed: True, None, small ints */
        if (answer != PyTuple_GetItem(pair, 1)) {
            return answer == NULL ? -1 : 0;
        }
    }
    return 1;
}

#endif
