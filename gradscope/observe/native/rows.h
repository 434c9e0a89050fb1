/* The rows of a board, as bytes that Python owns, and what is added to them. */

#ifndef GRADSCOPE_ROWS_H
#define GRADSCOPE_ROWS_H

#include "memory.h"

/* The pass in use; bind() chooses it. */
extern const Pass *pass;

/* What is as large as this is read without the interpreter's lock. */
enum { LARGE_BYTES = 1 << 18 };

/* Whether `rows` can be a board's; else there is an exception. */
int is_board(PyObject *rows);

/* Reduce memory, or its change since `before`; where `copy` is given, copy it there. */
void reduce(const Memory *memory, const char *before, char *copy, int is_full, Record *record);

/* Merge a record into a row. Returns -1 with an exception where there is no such row. */
int merge(PyObject *rows, PyObject *number, const Record *record);

#endif
