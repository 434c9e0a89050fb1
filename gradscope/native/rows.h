/* The rows of a row buffer, as bytearrays that Python owns, and merging into them. */

#ifndef GRADSCOPE_ROWS_H
#define GRADSCOPE_ROWS_H

#include "memory.h"
#include "parallel.h"

/* The pass in use; bind() chooses it. */
extern const Pass *pass;

/* Tensors of at least this size are read without the interpreter lock. */
enum { LARGE_BYTES = 1 << 18 };

/* The bytearrays of a row buffer, borrowed from the caller: columns, bins and digest of each row. */
typedef struct {
    PyObject *rows, *bins, *digests; /* bins is NULL at core detail, digests without digests */
} RowBuffer;

/* Check the arguments `rows`, `bins` and `digests`. Returns -1 with an exception if they are not bytearrays. */
int find_row_buffer(PyObject *rows, PyObject *bins, PyObject *digests, RowBuffer *buffer);

/* What the rows of a buffer hold: WITH_BINS, WITH_DIGEST, both or 0. */
int wanted_by(const RowBuffer *buffer);

/* Set the function that returns the number of threads of PyTorch, or None for one thread. */
void bind_threads(PyObject *get_num_threads);

/* The number of threads that should read a tensor of this size. */
int threads_for(size_t size_bytes);

/* Reduce memory, and copy it unless `copy` is NULL; or reduce its change since `before`. */
void reduce(const Memory *memory, const char *before, char *copy, int wanted, Statistics *statistics);

/* Merge statistics into a row. Returns -1 with an exception if there is no such row. */
int merge_row(const RowBuffer *buffer, Py_ssize_t row, const Statistics *statistics);

/* The same for a row given as a Python int. */
int merge(const RowBuffer *buffer, PyObject *number, const Statistics *statistics);

#endif
