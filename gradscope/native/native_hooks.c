/* NativeHooks(rows, bins, digests, expected, forward, backward, dict_type, on_gradient, give_up): the fast path of hooks.
 *
 *     record_output(module, output) -> True    recorded, and a hook is installed on its gradient
 *                                      False   nothing was done: the Python hooks must do the work
 *
 * `forward` and `backward` are guards: pairs of a PyTorch function and the value it must return. If a guard fails,
 * or the tensor is not a plain one, the Python hooks do the work. `add_module` adds a module and its rows. */

#include "native_hooks.h"

#include "guards.h"
#include "module_map.h"

#include <string.h>
#include <time.h>

typedef struct {
    PyObject_HEAD
    PyObject *rows, *bins, *digests,
        *expected;                /* bytearrays of the row buffer; bins and digests may be None */
    PyObject *forward, *backward; /* guards: tuples of (function, value) */
    PyObject *dict_type;          /* the type in which PyTorch stores a tensor's hooks */
    PyObject *on_gradient, *give_up;
    PyObject *epoch;
    ModuleMap entries;
    double spent_s;
    long seen;
} NativeHooks;

/* The hook on one tensor. It is ignored in all epochs except its own. */
typedef struct {
    PyObject_HEAD
    PyObject *native, *epoch, *place;
    Py_ssize_t row;
} GradientHook;

static PyObject *hook_type;
static PyObject *requires_grad, *backward_hooks, *grad_fn, *register_hook_dict, *hook_key;

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Pass the current exception to `give_up`, and clear it: it must not reach the training. */
static void give_up(NativeHooks *native)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *answer = PyObject_CallFunctionObjArgs(native->give_up, value, NULL);
    if (answer == NULL) {
        PyErr_WriteUnraisable(native->give_up);
    }
    Py_XDECREF(answer);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

/* Reduce memory into a row of the row buffer. */
static int reduce_into_row(NativeHooks *native, const Memory *memory, Py_ssize_t row)
{
    Statistics statistics;
    RowBuffer buffer;
    if (find_row_buffer(native->rows, native->bins, native->digests, &buffer) < 0) {
        return -1;
    }
    reduce(memory, NULL, NULL, wanted_by(&buffer), &statistics);
    return merge_row(&buffer, row, &statistics);
}

/* --- the hook on a gradient ------------------------------------------------------------------------- */

static PyObject *make_hook(NativeHooks *native, const ModuleEntry *entry)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)hook_type, Py_tp_alloc);
    GradientHook *hook = (GradientHook *)allocate((PyTypeObject *)hook_type, 0);
    if (hook != NULL) {
        hook->native = Py_NewRef((PyObject *)native);
        hook->epoch = Py_NewRef(native->epoch);
        hook->row = entry->grad_row;
        hook->place = Py_NewRef(entry->place);
    }
    return (PyObject *)hook;
}

static void hook_free(PyObject *self)
{
    GradientHook *hook = (GradientHook *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(hook->native);
    Py_XDECREF(hook->epoch);
    Py_XDECREF(hook->place);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Returns 1 if reduced, 0 if Python must do it, -1 with an exception. */
static int reduce_gradient(const GradientHook *hook, PyObject *gradient)
{
    NativeHooks *native = (NativeHooks *)hook->native;
    Memory memory;
    const int is_usual = guards_hold(native->backward);
    if (is_usual <= 0 || !find_memory(gradient, &memory)) {
        return is_usual < 0 ? -1 : 0;
    }
    return reduce_into_row(native, &memory, hook->row) < 0 ? -1 : 1;
}

static PyObject *hook_call(PyObject *self, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    GradientHook *hook = (GradientHook *)self;
    NativeHooks *native = (NativeHooks *)hook->native;
    PyObject *gradient = PyTuple_GetItem(args, 0);
    if (gradient == NULL) {
        return NULL;
    }
    if (gradient == Py_None || hook->epoch != native->epoch) {
        Py_RETURN_NONE; /* no gradient of this output, or a graph of an earlier step */
    }
    const double began_s = now_s();
    const int outcome = reduce_gradient(hook, gradient);
    native->spent_s += now_s() - began_s;
    if (outcome < 0) {
        give_up(native);
    } else if (outcome == 0) {
        PyObject *token = PyTuple_Pack(2, hook->epoch, hook->place);
        PyObject *answer =
            token == NULL ? NULL : PyObject_CallFunctionObjArgs(native->on_gradient, token, gradient, NULL);
        Py_XDECREF(token);
        if (answer == NULL) {
            return NULL;
        }
        Py_DECREF(answer);
    }
    Py_RETURN_NONE;
}

static PyType_Slot hook_slots[] = {
    {Py_tp_doc, "Measures one tensor's gradient when it is known; changes nothing."},
    {Py_tp_call, hook_call},
    {Py_tp_dealloc, hook_free},
    {0, NULL},
};
static PyType_Spec hook_spec = {"gradscope.native._native.GradientHook", sizeof(GradientHook), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, hook_slots};

/* --- recording an output ------------------------------------------------------------------------------ */

/* Whether the tensor has a grad_fn (then in `node`) and no hooks yet. */
static int accepts_hook(PyObject *output, PyObject **node)
{
    PyObject *hooks = PyObject_GetAttr(output, backward_hooks);
    Py_XDECREF(hooks);
    if (hooks != Py_None) {
        return hooks == NULL ? -1 : 0;
    }
    *node = PyObject_GetAttr(output, grad_fn);
    if (*node == NULL) {
        return -1;
    }
    if (*node == Py_None) {
        Py_CLEAR(*node);
        return 0;
    }
    return 1;
}

/* Does the same as Tensor.register_hook, without a handle. */
static int place_hook(NativeHooks *native, PyObject *output, PyObject *node, const ModuleEntry *entry)
{
    const Py_ssize_t row = entry->grad_row;
    if (row < 0 || row >= PyByteArray_Size(native->expected)) {
        PyErr_Format(PyExc_IndexError, "row %zd is outside of the row buffer", row);
        return -1;
    }
    PyByteArray_AsString(native->expected)[row] = 1;
    PyObject *hook = make_hook(native, entry), *hooks = PyObject_CallNoArgs(native->dict_type);
    PyObject *answer = NULL;
    if (hook != NULL && hooks != NULL && PyObject_SetItem(hooks, hook_key, hook) == 0
        && PyObject_SetAttr(output, backward_hooks, hooks) == 0) {
        answer = PyObject_CallMethodObjArgs(node, register_hook_dict, output, NULL);
    }
    Py_XDECREF(hook);
    Py_XDECREF(hooks);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Returns 1 if everything was done, 0 if nothing was done, -1 with an exception. */
static int record_at(NativeHooks *native, const ModuleEntry *entry, PyObject *output)
{
    Memory memory;
    PyObject *node = NULL;
    int outcome = guards_hold(native->forward);
    if (outcome <= 0 || !find_memory(output, &memory)) {
        return outcome < 0 ? -1 : 0;
    }
    PyObject *needs_gradient = PyObject_GetAttr(output, requires_grad);
    Py_XDECREF(needs_gradient);
    if (needs_gradient == NULL) {
        return -1;
    }
    if (needs_gradient == Py_True && (outcome = accepts_hook(output, &node)) <= 0) {
        return outcome;
    }
    outcome = reduce_into_row(native, &memory, entry->out_row);
    if (outcome == 0 && node != NULL) {
        outcome = place_hook(native, output, node, entry);
    }
    Py_XDECREF(node);
    return outcome < 0 ? -1 : 1;
}

static int record_output(NativeHooks *native, PyObject *module, PyObject *output)
{
    const ModuleEntry *found = is_plain_tensor(output) ? find_module_entry(&native->entries, module) : NULL;
    if (found == NULL) {
        return 0;
    }
    const ModuleEntry entry =
        *found; /* a copy, because Python code may add modules during the call and so move the table */
    Py_INCREF(entry.place);
    const int outcome = record_at(native, &entry, output);
    Py_DECREF(entry.place);
    return outcome;
}

static PyObject *native_hooks_see(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    NativeHooks *native = (NativeHooks *)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "record_output(module, output)");
        return NULL;
    }
    const double began_s = now_s();
    const int outcome = record_output(native, args[0], args[1]);
    native->spent_s += now_s() - began_s;
    native->seen += outcome != 0;
    if (outcome < 0) {
        give_up(native);
    }
    return PyBool_FromLong(outcome);
}

static PyObject *native_hooks_put(PyObject *self, PyObject *args)
{
    PyObject *module, *place;
    Py_ssize_t out_row, grad_row;
    if (!PyArg_ParseTuple(args, "OnnO", &module, &out_row, &grad_row, &place)
        || put_module_entry(&((NativeHooks *)self)->entries, module, place, out_row, grad_row) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *native_hooks_turn(PyObject *self, PyObject *epoch)
{
    NativeHooks *native = (NativeHooks *)self;
    PyObject *old = native->epoch;
    native->epoch = Py_NewRef(epoch);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *native_hooks_take(PyObject *self, PyObject *Py_UNUSED(none))
{
    NativeHooks *native = (NativeHooks *)self;
    PyObject *taken = Py_BuildValue("(dl)", native->spent_s, native->seen);
    native->spent_s = 0;
    native->seen = 0;
    return taken;
}

/* --- the type --------------------------------------------------------------------------------------- */

static PyObject *native_hooks_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *rows, *bins, *digests, *expected, *forward, *backward, *dict_type, *on_gradient, *gives_up;
    if (!PyArg_ParseTuple(args, "O!OOO!O!O!OOO", &PyByteArray_Type, &rows, &bins, &digests, &PyByteArray_Type,
                          &expected, &PyTuple_Type, &forward, &PyTuple_Type, &backward, &dict_type,
                          &on_gradient, &gives_up)) {
        return NULL;
    }
    PyObject *epoch = PyLong_FromLong(0);
    NativeHooks *native = (NativeHooks *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (epoch == NULL || native == NULL) {
        Py_XDECREF(epoch);
        Py_XDECREF((PyObject *)native);
        return NULL;
    }
    native->rows = Py_NewRef(rows);
    native->bins = Py_NewRef(bins);
    native->digests = Py_NewRef(digests);
    native->expected = Py_NewRef(expected);
    native->forward = Py_NewRef(forward);
    native->backward = Py_NewRef(backward);
    native->dict_type = Py_NewRef(dict_type);
    native->on_gradient = Py_NewRef(on_gradient);
    native->give_up = Py_NewRef(gives_up);
    native->epoch = epoch;
    return (PyObject *)native;
}

static int native_hooks_traverse(PyObject *self, visitproc visit, void *arg)
{
    NativeHooks *native = (NativeHooks *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(native->forward);
    Py_VISIT(native->backward);
    Py_VISIT(native->dict_type);
    Py_VISIT(native->on_gradient);
    Py_VISIT(native->give_up);
    return visit_module_map(&native->entries, visit, arg);
}

static int native_hooks_clear(PyObject *self)
{
    NativeHooks *native = (NativeHooks *)self;
    Py_CLEAR(native->on_gradient);
    Py_CLEAR(native->give_up);
    clear_module_map(&native->entries);
    return 0;
}

static void native_hooks_free(PyObject *self)
{
    NativeHooks *native = (NativeHooks *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    native_hooks_clear(self);
    Py_XDECREF(native->rows);
    Py_XDECREF(native->bins);
    Py_XDECREF(native->digests);
    Py_XDECREF(native->expected);
    Py_XDECREF(native->forward);
    Py_XDECREF(native->backward);
    Py_XDECREF(native->dict_type);
    Py_XDECREF(native->epoch);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef native_hooks_methods[] = {
    {"record_output", (PyCFunction)(void (*)(void))native_hooks_see, METH_FASTCALL,
     "record_output(module, output) -> whether it was measured here, and a hook is on its gradient"},
    {"add_module", native_hooks_put, METH_VARARGS,
     "add_module(module, row of out, row of grad, place): a module to be seen"},
    {"begin_epoch", native_hooks_turn, METH_O,
     "begin_epoch(epoch): hooks placed from now on belong to it, earlier ones are deaf"},
    {"take_counts", native_hooks_take, METH_NOARGS,
     "take_counts() -> (seconds spent here, outputs seen) since it was last asked"},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot native_hooks_slots[] = {
    {Py_tp_doc,
     "NativeHooks(rows, bins, digests, expected, forward, backward, dict_type, on_gradient, give_up)"},
    {Py_tp_new, native_hooks_new},
    {Py_tp_dealloc, native_hooks_free},
    {Py_tp_traverse, native_hooks_traverse},
    {Py_tp_clear, native_hooks_clear},
    {Py_tp_methods, native_hooks_methods},
    {0, NULL},
};
static PyType_Spec native_hooks_spec = {"gradscope.native._native.NativeHooks", sizeof(NativeHooks), 0,
                                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, native_hooks_slots};

int add_native_hooks(PyObject *module)
{
    requires_grad = PyUnicode_InternFromString("requires_grad");
    backward_hooks = PyUnicode_InternFromString("_backward_hooks");
    grad_fn = PyUnicode_InternFromString("grad_fn");
    register_hook_dict = PyUnicode_InternFromString("_register_hook_dict");
    hook_key = PyLong_FromLong(-1); /* PyTorch numbers its handles from 0 */
    hook_type = PyType_FromSpec(&hook_spec);
    PyObject *native_hooks_type = PyType_FromSpec(&native_hooks_spec);
    const int is_done = requires_grad != NULL && backward_hooks != NULL && grad_fn != NULL
                        && register_hook_dict != NULL && hook_key != NULL && hook_type != NULL
                        && native_hooks_type != NULL
                        && PyObject_SetAttrString(hook_type, "__torch_unserializable__", Py_True) == 0
                        && PyModule_AddObjectRef(module, "NativeHooks", native_hooks_type) == 0;
    Py_XDECREF(native_hooks_type);
    return is_done ? 0 : -1;
}
