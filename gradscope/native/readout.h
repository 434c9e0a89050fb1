/* A step's rows taken off the board, column by column. */

#ifndef GRADSCOPE_READOUT_H
#define GRADSCOPE_READOUT_H

#include "rows.h"

/* harvest(rows, flags, expected, missing, is_taken) -> a bytearray: each column of `rows` one after the
 * other, the whole counts as uint64 and the others as float64, and then a byte of flags for each row: with
 * the flag `missing` where a gradient was expected and there were no calls. Where `is_taken`, the board is
 * as empty afterwards as it was at first. */
PyObject *readout(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
