/* The modules that hooks see, by their address: one place in memory for all that is known of each. */

#ifndef GRADSCOPE_MODULE_MAP_H
#define GRADSCOPE_MODULE_MAP_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

typedef struct {
    PyObject *module;    /* its address only; it may have gone, and another may lie there */
    PyObject *reference; /* a weak one, owned */
    PyObject *place;     /* what a hook in Python is to be told, owned */
    Py_ssize_t out_row, grad_row;
} ModuleEntry;

/* A table that begins as zeros. `room` is a power of two, or 0; free spots have no module. */
typedef struct {
    ModuleEntry *entries;
    size_t capacity, used;
} ModuleMap;

/* The spot of a module that is alive; NULL where there is none. */
const ModuleEntry *find_module_entry(const ModuleMap *table, PyObject *module);

/* Put a module at its spot; references are taken. Returns -1 with an exception. */
int put_module_entry(ModuleMap *table, PyObject *module, PyObject *place, Py_ssize_t out_row,
                     Py_ssize_t grad_row);

/* Visit what the table owns, as Python's collector of garbage asks for. */
int visit_module_map(const ModuleMap *table, visitproc visit, void *arg);

/* Let go of all. */
void clear_module_map(ModuleMap *table);

#endif
