/* The modules that the native hooks know: a hash table by address. */

#ifndef GRADSCOPE_MODULE_MAP_H
#define GRADSCOPE_MODULE_MAP_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

typedef struct {
    PyObject *module;    /* only compared; the module may be freed and its address reused */
    PyObject *reference; /* a weak reference, owned */
    PyObject *place;     /* passed to hooks in Python, owned */
    Py_ssize_t out_row, grad_row;
} ModuleEntry;

/* All zeros is an empty table. `capacity` is a power of two or 0; free entries have no module. */
typedef struct {
    ModuleEntry *entries;
    size_t capacity, used;
} ModuleMap;

/* Return the entry of a module that is alive, or NULL. */
const ModuleEntry *find_module_entry(const ModuleMap *table, PyObject *module);

/* Add or replace a module; references are taken. Returns -1 with an exception. */
int put_module_entry(ModuleMap *table, PyObject *module, PyObject *place, Py_ssize_t out_row,
                     Py_ssize_t grad_row);

/* For the garbage collector: visit the references of the table. */
int visit_module_map(const ModuleMap *table, visitproc visit, void *arg);

/* Remove all entries. */
void clear_module_map(ModuleMap *table);

#endif
