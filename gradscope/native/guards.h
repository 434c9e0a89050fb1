/* Whether nothing is about that would make a case uncommon: questions put to PyTorch, and their usual answers. */

#ifndef GRADSCOPE_GUARDS_H
#define GRADSCOPE_GUARDS_H

#include "rows.h"

/* Whether each question of a tuple of pairs has its answer; -1 with an exception. */
static inline int guards_hold(PyObject *guards)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(guards); i++) {
        PyObject *pair = PyTuple_GetItem(guards, i);
        PyObject *answer = PyObject_CallNoArgs(PyTuple_GetItem(pair, 0));
        Py_XDECREF(answer); /* only compared, with what lives on: True, False, None and small numbers */
        if (answer != PyTuple_GetItem(pair, 1)) {
            return answer == NULL ? -1 : 0;
        }
    }
    return 1;
}

#endif
