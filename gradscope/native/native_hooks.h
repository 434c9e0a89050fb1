/* `NativeHooks`: the fast path of hooks, for plain float tensors on the host with no modes active. */

#ifndef GRADSCOPE_NATIVE_HOOKS_H
#define GRADSCOPE_NATIVE_HOOKS_H

#include "rows.h"

/* Add the type to the module. Returns -1 with an exception. */
int add_native_hooks(PyObject *module);

#endif
