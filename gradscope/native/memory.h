/* The memory of a tensor, from the DLPack exchange functions that PyTorch publishes on its tensor class: no
 * header and no symbol of PyTorch is needed. */

#ifndef GRADSCOPE_MEMORY_H
#define GRADSCOPE_MEMORY_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdint.h>

#include "record.h"

/* The elements of a tensor of any dtype and layout, as they are indexed. */
typedef struct {
    const char *data;
    size_t bytes; /* of an element */
    int dims;
    const int64_t *shape, *strides; /* of the tensor object: valid while it exists unchanged */
} Elements;

typedef struct {
    Elements elements;
    const char *data;
    size_t stored;  /* elements in memory: dense, in any order of dims */
    double repeats; /* repeats of each element: the product of the sizes of the dims with stride 0 */
    Dtype dtype;
    size_t size_bytes; /* dtype of the stored elements */
    uint64_t layout;   /* hash of dtype, shape and strides */
} Memory;

/* Set PyTorch's exchange functions and classes. Returns -1 with an exception if they cannot be used. */
int bind_memory(PyObject *capsule, PyObject *tensor, PyObject *parameter, PyObject *is_neg);

/* Whether bind_memory has succeeded. */
int is_bound(void);

/* Whether this is exactly torch.Tensor, no subclass. */
int is_plain_tensor(PyObject *object);

/* Whether this is exactly torch.nn.Parameter or torch.Tensor, no subclass. */
int is_plain_parameter(PyObject *object);

/* Find the memory of a plain tensor on the host. Returns 0 if it cannot be read here. */
int find_memory(PyObject *object, Memory *memory);

/* Find the elements of a plain tensor on the host: of 1, 2, 4 or 8 bytes. Returns 0 if they cannot be read here. */
int find_elements(PyObject *object, Elements *elements);

/* Whether the elements are in memory without gaps, in the order of their indices. */
int is_in_order(const Elements *elements);

/* The digest of all elements, read in the order of their indices. */
uint64_t digest_of(const Pass *pass, const Elements *elements);

#endif
