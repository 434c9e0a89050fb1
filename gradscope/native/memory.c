#include "memory.h"

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

int find_memory(PyObject *object, Memory *memory)
{
    DLTensor tensor;
    PyObject *type = (PyObject *)Py_TYPE(object);
    if (type != tensor_type && type != parameter_type) {
        return 0;
    }
    PyObject *negative = PyObject_CallFunctionObjArgs(is_neg_function, object, NULL);
    Py_XDECREF(negative);
    if (negative != Py_False || tensor_from_object(object, &tensor) != 0) {
        PyErr_Clear();
        return 0;
    }
    if ((tensor.device.type != DL_CPU && tensor.device.type != DL_PINNED) || !find_dtype(&tensor, memory)
        || !find_extent(&tensor, memory)) {
        return 0;
    }
    memory->data = (const char *)tensor.data + tensor.byte_offset;
    memory->size_bytes = memory->stored * (tensor.dtype.bits / 8);
    return tensor.data != NULL || memory->stored == 0;
}
