/* Where a tensor's numbers lie, asked of PyTorch by the exchange functions of DLPack that it publishes on its
 * tensor class: no header and no symbol of PyTorch's is needed. */

#ifndef GRADSCOPE_MEMORY_H
#define GRADSCOPE_MEMORY_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdint.h>

#include "record.h"

typedef struct {
    const char *data;
    size_t stored;  /* elements in memory: dense, in any order of dims */
    double repeats; /* how often each counts: the dims of stride 0 */
    Dtype dtype;
    size_t size_bytes; /* of what is stored */
    uint64_t layout;   /* tells dtype, shape and strides from others */
} Memory;

/* Take PyTorch's exchange functions and classes. Returns -1 with an exception where they cannot be used. */
int bind_memory(PyObject *capsule, PyObject *tensor, PyObject *parameter, PyObject *is_neg);

/* Whether bind_memory has succeeded. */
int is_bound(void);

/* Whether it is a tensor of no subclass, and no parameter. */
int is_plain_tensor(PyObject *object);

/* Whether it is a parameter, or a tensor, of no subclass of either. */
int is_plain_parameter(PyObject *object);

/* Whether a tensor can be read here: a plain one with its numbers in this machine's memory. */
int find_memory(PyObject *object, Memory *memory);

#endif
