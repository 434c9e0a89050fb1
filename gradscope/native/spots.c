#include "spots.h"

#include <stdint.h>
#include <string.h>

enum { FIRST_ROOM = 64 };

/* Where a module lies or would lie. The table is never full. */
static Spot *spot_at(const Spots *table, PyObject *module)
{
    const uint64_t spread = ((uint64_t)(uintptr_t)module >> 4) * UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(spread >> 32) & (table->room - 1);
    while (table->spots[i].module != NULL && table->spots[i].module != module) {
        i = (i + 1) & (table->room - 1);
    }
    return &table->spots[i];
}

/* Make room for one more, so that at most half of the table is used. */
static int make_room(Spots *table)
{
    if (2 * (table->used + 1) <= table->room) {
        return 0;
    }
    Spots larger = {NULL, table->room ? 2 * table->room : FIRST_ROOM, table->used};
    larger.spots = PyMem_Calloc(larger.room, sizeof(Spot));
    if (larger.spots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < table->room; i++) {
        if (table->spots[i].module != NULL) {
            *spot_at(&larger, table->spots[i].module) = table->spots[i];
        }
    }
    PyMem_Free(table->spots);
    *table = larger;
    return 0;
}

const Spot *find_spot(const Spots *table, PyObject *module)
{
    if (table->room == 0) {
        return NULL;
    }
    const Spot *spot = spot_at(table, module);
    return spot->module != NULL && PyWeakref_GetObject(spot->reference) == module ? spot : NULL;
}

int put_spot(Spots *table, PyObject *module, PyObject *place, Py_ssize_t out_row, Py_ssize_t grad_row)
{
    PyObject *reference = PyWeakref_NewRef(module, NULL);
    if (reference == NULL || make_room(table) < 0) {
        Py_XDECREF(reference);
        return -1;
    }
    Spot *spot = spot_at(table, module), old = *spot;
    *spot = (Spot){module, reference, Py_NewRef(place), out_row, grad_row};
    table->used += old.module == NULL;
    Py_XDECREF(old.reference);
    Py_XDECREF(old.place);
    return 0;
}

int visit_spots(const Spots *table, visitproc visit, void *arg)
{
    for (size_t i = 0; i < table->room; i++) {
        Py_VISIT(table->spots[i].reference);
        Py_VISIT(table->spots[i].place);
    }
    return 0;
}

void clear_spots(Spots *table)
{
    const Spots old = *table;
    *table = (Spots){NULL, 0, 0};
    for (size_t i = 0; i < old.room; i++) {
        Py_XDECREF(old.spots[i].reference);
        Py_XDECREF(old.spots[i].place);
    }
    PyMem_Free(old.spots);
}
