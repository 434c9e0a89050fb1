/* `Watch`: what hooks do in the common case, in C: a plain tensor of floats on the host, and nobody about. */

#ifndef GRADSCOPE_WATCH_H
#define GRADSCOPE_WATCH_H

#include "rows.h"

/* Add the type to the module. Returns -1 with an exception. */
int add_watch(PyObject *module);

#endif
