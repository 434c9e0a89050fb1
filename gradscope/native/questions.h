/* Whether nothing is about that would make a case uncommon: questions put to PyTorch, and their usual answers. */

#ifndef GRADSCOPE_QUESTIONS_H
#define GRADSCOPE_QUESTIONS_H

#include "rows.h"

/* Whether each question of a tuple of pairs has its answer; -1 with an exception. */
static inline int is_as_asked(PyObject *questions)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(questions); i++) {
        PyObject *pair = PyTuple_GetItem(questions, i);
        PyObject *answer = PyObject_CallNoArgs(PyTuple_GetItem(pair, 0));
        Py_XDECREF(answer); /* only compared, with what lives on: True, False, None and small numbers */
        if (answer != PyTuple_GetItem(pair, 1)) {
            return answer == NULL ? -1 : 0;
        }
    }
    return 1;
}

#endif
