/* Packs the histograms of a step for the wire: for each row and sign, only the range of used bins. */

#ifndef GRADSCOPE_PACK_HISTOGRAM_H
#define GRADSCOPE_PACK_HISTOGRAM_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* pack_bins(bins) -> (ranges, counts): the packed form of gradscope.protocol.histograms, as bytes: five arrays one
 * after the other, and a tuple of the counts of 8, 4, 2 and 1 bytes. `bins` is a buffer of 128 uint64 per row.
 * The interpreter lock is released during the call. */
PyObject *pack_histogram(PyObject *module, PyObject *bins);

#endif
