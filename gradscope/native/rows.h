/* The rows of a board, as bytes that Python owns, and what is added to them. */

#ifndef GRADSCOPE_ROWS_H
#define GRADSCOPE_ROWS_H

#include "memory.h"
#include "parallel.h"

/* The pass in use; bind() chooses it. */
extern const Pass *pass;

/* What is as large as this is read without the interpreter's lock. */
enum { LARGE_BYTES = 1 << 18 };

/* A board's rows, borrowed from the caller: bytearrays of the columns, and of the bins of each row. */
typedef struct {
    PyObject *rows, *bins; /* bins is NULL where only core columns are wanted */
} RowBuffer;

/* Take what Python gives as `rows` and `bins`. Returns -1 with an exception where they are no board's. */
int find_row_buffer(PyObject *rows, PyObject *bins, RowBuffer *buffer);

/* Take what tells how many threads PyTorch's own operations run on, or None for one. */
void bind_threads(PyObject *get_num_threads);

/* How many threads are to read so many bytes. */
int threads_for(size_t size_bytes);

/* Reduce memory, and copy it where `copy` is given; or reduce its change since `before`. */
void reduce(const Memory *memory, const char *before, char *copy, int is_full, Statistics *statistics);

/* Merge into a row what was measured. Returns -1 with an exception where there is no such row. */
int merge_row(const RowBuffer *buffer, Py_ssize_t row, const Statistics *statistics);

/* The same, of a row that Python has given. */
int merge(const RowBuffer *buffer, PyObject *number, const Statistics *statistics);

#endif
