#include "module_map.h"

#include <stdint.h>
#include <string.h>

enum { FIRST_CAPACITY = 64 };

/* The entry of a module, or the free one where it would be. The table is never full. */
static ModuleEntry *entry_at(const ModuleMap *table, PyObject *module)
{
    const uint64_t spread = ((uint64_t)(uintptr_t)module >> 4) * UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(spread >> 32) & (table->capacity - 1);
    while (table->entries[i].module != NULL && table->entries[i].module != module) {
        i = (i + 1) & (table->capacity - 1);
    }
    return &table->entries[i];
}

/* Grow the table so that at most half of it is used after one more entry. */
static int grow_if_needed(ModuleMap *table)
{
    if (2 * (table->used + 1) <= table->capacity) {
        return 0;
    }
    ModuleMap larger = {NULL, table->capacity ? 2 * table->capacity : FIRST_CAPACITY, table->used};
    larger.entries = PyMem_Calloc(larger.capacity, sizeof(ModuleEntry));
    if (larger.entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < table->capacity; i++) {
        if (table->entries[i].module != NULL) {
            *entry_at(&larger, table->entries[i].module) = table->entries[i];
        }
    }
    PyMem_Free(table->entries);
    *table = larger;
    return 0;
}

const ModuleEntry *find_module_entry(const ModuleMap *table, PyObject *module)
{
    if (table->capacity == 0) {
        return NULL;
    }
    const ModuleEntry *entry = entry_at(table, module);
    return entry->module != NULL && PyWeakref_GetObject(entry->reference) == module ? entry : NULL;
}

int put_module_entry(ModuleMap *table, PyObject *module, PyObject *place, Py_ssize_t out_row,
                     Py_ssize_t grad_row)
{
    PyObject *reference = PyWeakref_NewRef(module, NULL);
    if (reference == NULL || grow_if_needed(table) < 0) {
        Py_XDECREF(reference);
        return -1;
    }
    ModuleEntry *entry = entry_at(table, module), old = *entry;
    *entry = (ModuleEntry){module, reference, Py_NewRef(place), out_row, grad_row};
    table->used += old.module == NULL;
    Py_XDECREF(old.reference);
    Py_XDECREF(old.place);
    return 0;
}

int visit_module_map(const ModuleMap *table, visitproc visit, void *arg)
{
    for (size_t i = 0; i < table->capacity; i++) {
        Py_VISIT(table->entries[i].reference);
        Py_VISIT(table->entries[i].place);
    }
    return 0;
}

void clear_module_map(ModuleMap *table)
{
    const ModuleMap old = *table;
    *table = (ModuleMap){NULL, 0, 0};
    for (size_t i = 0; i < old.capacity; i++) {
        Py_XDECREF(old.entries[i].reference);
        Py_XDECREF(old.entries[i].place);
    }
    PyMem_Free(old.entries);
}
