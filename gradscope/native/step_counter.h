/* `StepCounter`: counts idle steps, in which gradscope does no other work. */

#ifndef GRADSCOPE_STEP_COUNTER_H
#define GRADSCOPE_STEP_COUNTER_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* Add the type to the module. Returns -1 with an exception. */
int add_counter(PyObject *module);

#endif
