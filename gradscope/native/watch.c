/* Watch(rows, bins, expected, forward, backward, dict_type, on_gradient, give_up): hooks in C.
 *
 *     see(module, output) -> True    measured, and a hook is on its gradient
 *                            False   nothing was done: it is for the hooks in Python
 *
 * `forward` and `backward` are pairs (question, answer) of PyTorch's own functions: only while each gives its
 * answer is anything done here. All else, and whatever is odd about a tensor, is left to Python, which knows
 * every case. `put` says which modules there are, and the rows of each.
 */

#include "watch.h"

#include "questions.h"
#include "spots.h"

#include <string.h>
#include <time.h>

typedef struct {
    PyObject_HEAD
    PyObject *rows, *bins, *expected; /* bytearrays of the board; bins may be None */
    PyObject *forward, *backward;     /* tuples of (question, answer) */
    PyObject *dict_type;              /* what PyTorch keeps a tensor's hooks in */
    PyObject *on_gradient, *give_up;
    PyObject *epoch;
    Spots spots;
    double spent_s;
    long seen;
} Watch;

/* The hook on one tensor: what it belongs to, and in which epoch it was placed. */
typedef struct {
    PyObject_HEAD
    PyObject *watch, *epoch, *place;
    Py_ssize_t row;
} Hook;

static PyObject *hook_type;
static PyObject *requires_grad, *backward_hooks, *grad_fn, *register_hook_dict, *ours;

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Hand the exception that is set to Python; it is not the training's. */
static void give_up(Watch *watch)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *answer = PyObject_CallFunctionObjArgs(watch->give_up, value, NULL);
    if (answer == NULL) {
        PyErr_WriteUnraisable(watch->give_up);
    }
    Py_XDECREF(answer);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

/* Reduce memory into a row of the board. */
static int measure(Watch *watch, const Memory *memory, Py_ssize_t row)
{
    Measured measured;
    Board board;
    if (find_board(watch->rows, watch->bins, &board) < 0) {
        return -1;
    }
    reduce(memory, NULL, NULL, board.bins != NULL, &measured);
    return merge_row(&board, row, &measured);
}

/* --- the hook on a gradient ------------------------------------------------------------------------- */

static PyObject *make_hook(Watch *watch, const Spot *spot)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)hook_type, Py_tp_alloc);
    Hook *hook = (Hook *)allocate((PyTypeObject *)hook_type, 0);
    if (hook != NULL) {
        hook->watch = Py_NewRef((PyObject *)watch);
        hook->epoch = Py_NewRef(watch->epoch);
        hook->row = spot->grad_row;
        hook->place = Py_NewRef(spot->place);
    }
    return (PyObject *)hook;
}

static void hook_free(PyObject *self)
{
    Hook *hook = (Hook *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(hook->watch);
    Py_XDECREF(hook->epoch);
    Py_XDECREF(hook->place);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* 1 when measured, 0 when it is for Python, -1 with an exception. */
static int measure_gradient(const Hook *hook, PyObject *gradient)
{
    Watch *watch = (Watch *)hook->watch;
    Memory memory;
    const int is_asked = is_as_asked(watch->backward);
    if (is_asked <= 0 || !find_memory(gradient, &memory)) {
        return is_asked < 0 ? -1 : 0;
    }
    return measure(watch, &memory, hook->row) < 0 ? -1 : 1;
}

static PyObject *hook_call(PyObject *self, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    Hook *hook = (Hook *)self;
    Watch *watch = (Watch *)hook->watch;
    PyObject *gradient = PyTuple_GetItem(args, 0);
    if (gradient == NULL) {
        return NULL;
    }
    if (gradient == Py_None || hook->epoch != watch->epoch) {
        Py_RETURN_NONE; /* no gradient of this output, or a graph of an earlier step */
    }
    const double began_s = now_s();
    const int outcome = measure_gradient(hook, gradient);
    watch->spent_s += now_s() - began_s;
    if (outcome < 0) {
        give_up(watch);
    } else if (outcome == 0) {
        PyObject *token = PyTuple_Pack(2, hook->epoch, hook->place);
        PyObject *answer
            = token == NULL ? NULL : PyObject_CallFunctionObjArgs(watch->on_gradient, token, gradient, NULL);
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
static PyType_Spec hook_spec = {"gradscope.native._native.GradientHook", sizeof(Hook), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, hook_slots};

/* --- seeing an output ------------------------------------------------------------------------------- */

/* Whether a tensor of the graph takes our hook as its first one; `node` is then what made it. */
static int takes_hook(PyObject *output, PyObject **node)
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

/* What Tensor.register_hook does, without a handle that nobody would use. */
static int place_hook(Watch *watch, PyObject *output, PyObject *node, const Spot *spot)
{
    const Py_ssize_t row = spot->grad_row;
    if (row < 0 || row >= PyByteArray_Size(watch->expected)) {
        PyErr_Format(PyExc_IndexError, "row %zd is not on the board", row);
        return -1;
    }
    PyByteArray_AsString(watch->expected)[row] = 1;
    PyObject *hook = make_hook(watch, spot), *hooks = PyObject_CallNoArgs(watch->dict_type);
    PyObject *answer = NULL;
    if (hook != NULL && hooks != NULL && PyObject_SetItem(hooks, ours, hook) == 0
        && PyObject_SetAttr(output, backward_hooks, hooks) == 0) {
        answer = PyObject_CallMethodObjArgs(node, register_hook_dict, output, NULL);
    }
    Py_XDECREF(hook);
    Py_XDECREF(hooks);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* 1 when all was done, 0 when nothing was, -1 with an exception. */
static int see_at(Watch *watch, const Spot *spot, PyObject *output)
{
    Memory memory;
    PyObject *node = NULL;
    int outcome = is_as_asked(watch->forward);
    if (outcome <= 0 || !find_memory(output, &memory)) {
        return outcome < 0 ? -1 : 0;
    }
    PyObject *needs_gradient = PyObject_GetAttr(output, requires_grad);
    Py_XDECREF(needs_gradient);
    if (needs_gradient == NULL) {
        return -1;
    }
    if (needs_gradient == Py_True && (outcome = takes_hook(output, &node)) <= 0) {
        return outcome;
    }
    outcome = measure(watch, &memory, spot->out_row);
    if (outcome == 0 && node != NULL) {
        outcome = place_hook(watch, output, node, spot);
    }
    Py_XDECREF(node);
    return outcome < 0 ? -1 : 1;
}

static int see_output(Watch *watch, PyObject *module, PyObject *output)
{
    const Spot *found = is_plain_tensor(output) ? find_spot(&watch->spots, module) : NULL;
    if (found == NULL) {
        return 0;
    }
    const Spot spot = *found; /* Python may put modules meanwhile, and the table be another */
    Py_INCREF(spot.place);
    const int outcome = see_at(watch, &spot, output);
    Py_DECREF(spot.place);
    return outcome;
}

static PyObject *watch_see(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Watch *watch = (Watch *)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "see(module, output)");
        return NULL;
    }
    const double began_s = now_s();
    const int outcome = see_output(watch, args[0], args[1]);
    watch->spent_s += now_s() - began_s;
    watch->seen += outcome != 0;
    if (outcome < 0) {
        give_up(watch);
    }
    return PyBool_FromLong(outcome);
}

static PyObject *watch_put(PyObject *self, PyObject *args)
{
    PyObject *module, *place;
    Py_ssize_t out_row, grad_row;
    if (!PyArg_ParseTuple(args, "OnnO", &module, &out_row, &grad_row, &place)
        || put_spot(&((Watch *)self)->spots, module, place, out_row, grad_row) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *watch_turn(PyObject *self, PyObject *epoch)
{
    Watch *watch = (Watch *)self;
    PyObject *old = watch->epoch;
    watch->epoch = Py_NewRef(epoch);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *watch_take(PyObject *self, PyObject *Py_UNUSED(none))
{
    Watch *watch = (Watch *)self;
    PyObject *taken = Py_BuildValue("(dl)", watch->spent_s, watch->seen);
    watch->spent_s = 0;
    watch->seen = 0;
    return taken;
}

/* --- the type --------------------------------------------------------------------------------------- */

static PyObject *watch_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *rows, *bins, *expected, *forward, *backward, *dict_type, *on_gradient, *gives_up;
    if (!PyArg_ParseTuple(args, "O!OO!O!O!OOO", &PyByteArray_Type, &rows, &bins, &PyByteArray_Type, &expected,
                          &PyTuple_Type, &forward, &PyTuple_Type, &backward, &dict_type, &on_gradient,
                          &gives_up)) {
        return NULL;
    }
    PyObject *epoch = PyLong_FromLong(0);
    Watch *watch = (Watch *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (epoch == NULL || watch == NULL) {
        Py_XDECREF(epoch);
        Py_XDECREF((PyObject *)watch);
        return NULL;
    }
    watch->rows = Py_NewRef(rows);
    watch->bins = Py_NewRef(bins);
    watch->expected = Py_NewRef(expected);
    watch->forward = Py_NewRef(forward);
    watch->backward = Py_NewRef(backward);
    watch->dict_type = Py_NewRef(dict_type);
    watch->on_gradient = Py_NewRef(on_gradient);
    watch->give_up = Py_NewRef(gives_up);
    watch->epoch = epoch;
    return (PyObject *)watch;
}

static int watch_traverse(PyObject *self, visitproc visit, void *arg)
{
    Watch *watch = (Watch *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(watch->forward);
    Py_VISIT(watch->backward);
    Py_VISIT(watch->dict_type);
    Py_VISIT(watch->on_gradient);
    Py_VISIT(watch->give_up);
    return visit_spots(&watch->spots, visit, arg);
}

static int watch_clear(PyObject *self)
{
    Watch *watch = (Watch *)self;
    Py_CLEAR(watch->on_gradient);
    Py_CLEAR(watch->give_up);
    clear_spots(&watch->spots);
    return 0;
}

static void watch_free(PyObject *self)
{
    Watch *watch = (Watch *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    watch_clear(self);
    Py_XDECREF(watch->rows);
    Py_XDECREF(watch->bins);
    Py_XDECREF(watch->expected);
    Py_XDECREF(watch->forward);
    Py_XDECREF(watch->backward);
    Py_XDECREF(watch->dict_type);
    Py_XDECREF(watch->epoch);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef watch_methods[] = {
    {"see", (PyCFunction)(void (*)(void))watch_see, METH_FASTCALL,
     "see(module, output) -> whether it was measured here, and a hook is on its gradient"},
    {"put", watch_put, METH_VARARGS, "put(module, row of out, row of grad, place): a module to be seen"},
    {"turn", watch_turn, METH_O, "turn(epoch): hooks placed from now on belong to it, earlier ones are deaf"},
    {"take", watch_take, METH_NOARGS, "take() -> (seconds spent here, outputs seen) since it was last asked"},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot watch_slots[] = {
    {Py_tp_doc, "Watch(rows, bins, expected, forward, backward, dict_type, on_gradient, give_up)"},
    {Py_tp_new, watch_new},           {Py_tp_dealloc, watch_free},
    {Py_tp_traverse, watch_traverse}, {Py_tp_clear, watch_clear},
    {Py_tp_methods, watch_methods},   {0, NULL},
};
static PyType_Spec watch_spec = {"gradscope.native._native.NativeHooks", sizeof(Watch), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, watch_slots};

int add_watch(PyObject *module)
{
    requires_grad = PyUnicode_InternFromString("requires_grad");
    backward_hooks = PyUnicode_InternFromString("_backward_hooks");
    grad_fn = PyUnicode_InternFromString("grad_fn");
    register_hook_dict = PyUnicode_InternFromString("_register_hook_dict");
    ours = PyLong_FromLong(-1); /* PyTorch numbers its handles from 0 on */
    hook_type = PyType_FromSpec(&hook_spec);
    PyObject *watch_type = PyType_FromSpec(&watch_spec);
    const int is_done = requires_grad != NULL && backward_hooks != NULL && grad_fn != NULL
                        && register_hook_dict != NULL && ours != NULL && hook_type != NULL
                        && watch_type != NULL
                        && PyObject_SetAttrString(hook_type, "__torch_unserializable__", Py_True) == 0
                        && PyModule_AddObjectRef(module, "NativeHooks", watch_type) == 0;
    Py_XDECREF(watch_type);
    return is_done ? 0 : -1;
}
