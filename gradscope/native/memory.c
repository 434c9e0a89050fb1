#include "memory.h"

#include <string.h>

/* --- DLPack, major version 1 ------------------------------------------------------------------------ */

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct {
    struct {
        struct {
            uint32_t major, minor;
        } version;
        void *older;
    } header;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*tensor_from_object)(void *object, DLTensor *out);
    void *current_stream;
} DLExchange;

enum { DL_CPU = 1, DL_PINNED = 3, DL_FLOAT = 2, DL_BFLOAT = 4, DL_MAJOR = 1 };

/* --- functions and classes of PyTorch, set once by `bind_memory` -------------------------------------- */

static int (*tensor_from_object)(void *object, DLTensor *out);
static PyObject *tensor_type, *parameter_type, *is_neg_function;

int is_bound(void)
{
    return tensor_from_object != NULL;
}

int is_plain_tensor(PyObject *object)
{
    return (PyObject *)Py_TYPE(object) == tensor_type;
}

int is_plain_parameter(PyObject *object)
{
    return (PyObject *)Py_TYPE(object) == parameter_type || is_plain_tensor(object);
}

int bind_memory(PyObject *capsule, PyObject *tensor, PyObject *parameter, PyObject *is_neg)
{
    const DLExchange *exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (exchange == NULL) {
        return -1;
    }
    if (exchange->header.version.major != DL_MAJOR || exchange->tensor_from_object == NULL) {
        PyErr_SetString(PyExc_ImportError, "PyTorch's DLPack exchange is of another version");
        return -1;
    }
    tensor_from_object = exchange->tensor_from_object;
    PyObject *old[] = {tensor_type, parameter_type, is_neg_function};
    tensor_type = Py_NewRef(tensor);
    parameter_type = Py_NewRef(parameter);
    is_neg_function = Py_NewRef(is_neg);
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(old[i]);
    }
    return 0;
}

/* --- a tensor's memory ------------------------------------------------------------------------------ */

static int find_dtype(const DLTensor *tensor, Memory *memory)
{
    const int code = tensor->dtype.code, bits = tensor->dtype.bits;
    if (tensor->dtype.lanes != 1 || (code != DL_FLOAT && !(code == DL_BFLOAT && bits == 16))) {
        return 0;
    }
    if (bits != 16 && bits != 32 && bits != 64) {
        return 0;
    }
    memory->dtype = code == DL_BFLOAT ? BFLOAT16 : bits == 16 ? FLOAT16 : bits == 32 ? FLOAT32 : FLOAT64;
    return 1;
}

/* Whether the dims with a stride other than 0 fill a range of memory without gap or overlap. */
static int find_extent(const DLTensor *tensor, Memory *memory)
{
    int left = 0;
    memory->stored = 1;
    memory->repeats = 1;
    memory->layout = (uint64_t)memory->dtype + 14695981039346656037u;
    for (int i = 0; i < tensor->ndim; i++) {
        const int64_t size = tensor->shape[i], stride = tensor->strides[i];
        memory->layout = (memory->layout ^ (uint64_t)size) * 1099511628211u;
        memory->layout = (memory->layout ^ (uint64_t)stride) * 1099511628211u;
        if (size == 0) {
            memory->stored = 0;
        } else if (size > 1 && stride == 0) {
            memory->repeats *= (double)size;
        } else if (size > 1) {
            left++;
        }
    }
    if (memory->stored == 0) {
        memory->repeats = 1; /* the product may have overflowed */
    }
    for (int64_t extent = 1; memory->stored && left; left--) {
        int at = tensor->ndim - 1; /* the usual order of dims matches in the first pass */
        while (at >= 0 && !(tensor->strides[at] == extent && tensor->shape[at] > 1)) {
            at--;
        }
        if (at < 0) {
            return 0;
        }
        extent *= tensor->shape[at];
        memory->stored = (size_t)extent;
    }
    return 1;
}

/* Get the memory of a plain tensor on the host from PyTorch. Returns 0 if it cannot be read here. */
static int find_tensor(PyObject *object, DLTensor *tensor)
{
    PyObject *type = (PyObject *)Py_TYPE(object);
    if (type != tensor_type && type != parameter_type) {
        return 0;
    }
    PyObject *negative = PyObject_CallFunctionObjArgs(is_neg_function, object, NULL);
    Py_XDECREF(negative);
    if (negative != Py_False || tensor_from_object(object, tensor) != 0) {
        PyErr_Clear();
        return 0;
    }
    return tensor->device.type == DL_CPU || tensor->device.type == DL_PINNED;
}

static Elements elements_of(const DLTensor *tensor)
{
    return (Elements){(const char *)tensor->data + tensor->byte_offset, tensor->dtype.bits / 8u, tensor->ndim,
                      tensor->shape, tensor->strides};
}

static size_t number_of(const Elements *elements)
{
    size_t n = 1;
    for (int i = 0; i < elements->dims; i++) {
        n *= (size_t)elements->shape[i];
    }
    return n;
}

int find_elements(PyObject *object, Elements *elements)
{
    DLTensor tensor;
    if (!find_tensor(object, &tensor) || tensor.dtype.lanes != 1) {
        return 0;
    }
    *elements = elements_of(&tensor);
    const size_t bytes = elements->bytes;
    return (bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8)
           && (tensor.data != NULL || number_of(elements) == 0);
}

int is_in_order(const Elements *elements)
{
    int64_t extent = 1;
    for (int i = elements->dims - 1; i >= 0; i--) {
        if (elements->shape[i] > 1 && elements->strides[i] != extent) {
            return 0;
        }
        extent *= elements->shape[i];
    }
    return 1;
}

enum { GATHERED_BYTES = 4096, MAX_DIMS = 64 };

#define COPY_EVERY(type)                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                                    \
        memcpy(to + i * (int64_t)sizeof(type), from + i * stride * (int64_t)sizeof(type), sizeof(type)); \
    }

/* Copy n elements that are `stride` elements apart. */
static void gather(char *to, const char *from, int64_t n, int64_t stride, size_t bytes)
{
    if (bytes == 1) {
        COPY_EVERY(uint8_t)
    } else if (bytes == 2) {
        COPY_EVERY(uint16_t)
    } else if (bytes == 4) {
        COPY_EVERY(uint32_t)
    } else {
        COPY_EVERY(uint64_t)
    }
}

/* The digest of the elements along the last dim. */
static uint64_t digest_line(const Pass *pass, const char *data, int64_t n, int64_t stride, size_t bytes,
                            uint64_t index)
{
    char line[GATHERED_BYTES];
    const int64_t room = GATHERED_BYTES / (int64_t)bytes;
    uint64_t sum = 0;
    if (stride == 1) {
        return pass->digest(data, (size_t)n, bytes, index);
    }
    for (int64_t done = 0; done < n; done += room) {
        const int64_t m = n - done < room ? n - done : room;
        gather(line, data + done * stride * (int64_t)bytes, m, stride, bytes);
        sum += pass->digest(line, (size_t)m, bytes, index + (uint64_t)done);
    }
    return sum;
}

uint64_t digest_of(const Pass *pass, const Elements *elements)
{
    const size_t all = number_of(elements), bytes = elements->bytes;
    if (is_in_order(elements)) {
        return pass->digest(elements->data, all, bytes, 0);
    }
    const int last = elements->dims - 1;
    const int64_t n = elements->shape[last], stride = elements->strides[last];
    int64_t at[MAX_DIMS] = {0}, offset = 0;
    uint64_t sum = 0;
    for (size_t index = 0; index < all; index += (size_t)n) {
        sum += digest_line(pass, elements->data + offset * (int64_t)bytes, n, stride, bytes, index);
        for (int i = last - 1; i >= 0; i--) { /* the next line */
            offset += elements->strides[i];
            if (++at[i] < elements->shape[i]) {
                break;
            }
            offset -= at[i] * elements->strides[i];
            at[i] = 0;
        }
    }
    return sum;
}

int find_memory(PyObject *object, Memory *memory)
{
    DLTensor tensor;
    if (!find_tensor(object, &tensor) || !find_dtype(&tensor, memory) || !find_extent(&tensor, memory)
        || tensor.ndim > MAX_DIMS) {
        return 0;
    }
    memory->elements = elements_of(&tensor);
    memory->data = memory->elements.data;
    memory->size_bytes = memory->stored * (tensor.dtype.bits / 8);
    return tensor.data != NULL || memory->stored == 0;
}
