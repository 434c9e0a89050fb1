/* The bins of a step's rows as they travel: of each row and sign the stretch that is in use. */

#ifndef GRADSCOPE_PACK_HISTOGRAM_H
#define GRADSCOPE_PACK_HISTOGRAM_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* pack_bins(bins) -> (where, counts): what gradscope.protocol.histograms packs rows into, as bytes: the five
 * arrays one after the other, and a tuple of the counts of 8, 4, 2 and 1 bytes. `bins` is a buffer of 128
 * uint64 a row. The interpreter's lock is let go meanwhile. */
PyObject *pack_histogram(PyObject *module, PyObject *bins);

#endif
