/* `Watch`: what hooks do in the common case, in C: a plain tensor of floats on the host, and nobody about. */

#ifndef GRADSCOPE_NATIVE_HOOKS_H
#define GRADSCOPE_NATIVE_HOOKS_H

#include "rows.h"

/* Add the type to the module. Returns -1 with an exception. */
int add_native_hooks(PyObject *module);

#endif
