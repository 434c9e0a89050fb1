/* StepCounter(step, clock, sequence_number, guards): the hooks around an optimizer's step, for idle steps.
 *
 *     before(optimizer, args, kwargs)    checks gradients if a check is due; calls `on_begin` if the step is not idle
 *     after(optimizer, args, kwargs)     counts an idle step; calls `on_end` after any other step
 *
 * Python code that runs once per step runs on cold caches and takes longer than in a loop. The class of the
 * same name in gradscope/agent/run/step_counter.py documents the attributes and is the version without C.
 */

#include "step_counter.h"

#include "finite.h"
#include "guards.h"

#include <stddef.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    PyObject *clock, *sequence_number;
    PyObject *on_begin, *on_end; /* NULL until the step engine sets them */
    PyObject *optimizer;         /* a weak reference to the optimizer whose step ends a step; or None */
    PyObject *leading;           /* a tuple of weak references to optimizers */
    PyObject *led;               /* a list: those of `leading` that have stepped in this idle step */
    PyObject *times_s;           /* a list */
    PyObject *guards;            /* tuple of (function, value) */
    double began_s, spent_s, checked_s;
    long long step, began_at, left, checks_at, check_every, checks;
    char must_plan;
} StepCounter;

/* Whether the step in progress and the next one are idle. */
static int is_idle(const StepCounter *counter)
{
    return counter->left > 0 && !counter->must_plan;
}

static int is_counted(const StepCounter *counter, PyObject *optimizer)
{
    return PyWeakref_Check(counter->optimizer) && PyWeakref_GetObject(counter->optimizer) == optimizer;
}

/* The item of a tuple or list of weak references that refers to the optimizer; borrowed, NULL if there is none. */
static PyObject *find_reference(PyObject *references, PyObject *optimizer)
{
    const int is_tuple = PyTuple_Check(references), is_list = PyList_Check(references);
    const Py_ssize_t count = is_tuple ? PyTuple_Size(references) : is_list ? PyList_Size(references) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = is_tuple ? PyTuple_GetItem(references, i) : PyList_GetItem(references, i);
        if (PyWeakref_Check(item) && PyWeakref_GetObject(item) == optimizer) {
            return item;
        }
    }
    return NULL;
}

static int has_nothing_but_itself(PyObject *args, PyObject *keywords)
{
    return PyTuple_Check(args) && PyTuple_Size(args) == 1
           && (!PyDict_Check(keywords) || PyDict_Size(keywords) == 0);
}

static int read_clock(const StepCounter *counter, double *now_s)
{
    PyObject *now = PyObject_CallNoArgs(counter->clock);
    *now_s = now == NULL ? 0.0 : PyFloat_AsDouble(now);
    Py_XDECREF(now);
    return PyErr_Occurred() == NULL ? 0 : -1;
}

static int read_sequence_number(StepCounter *counter)
{
    PyObject *number = PyObject_CallNoArgs(counter->sequence_number);
    const long long value = number == NULL ? -1 : PyLong_AsLongLong(number);
    Py_XDECREF(number);
    if (value == -1 && PyErr_Occurred() != NULL) {
        return -1;
    }
    counter->began_at = value;
    return 0;
}

/* End the step in progress and begin the next. */
static int count_step(StepCounter *counter)
{
    double now_s, done_s;
    if (read_clock(counter, &now_s) < 0) {
        return -1;
    }
    PyObject *time_s = PyFloat_FromDouble(now_s - counter->began_s);
    const int outcome = time_s == NULL ? -1 : PyList_Append(counter->times_s, time_s);
    Py_XDECREF(time_s);
    if (outcome < 0) {
        return -1;
    }
    counter->left--;
    counter->step++;
    counter->began_s = now_s;
    if (PyList_Size(counter->led) > 0
        && PyList_SetSlice(counter->led, 0, PyList_Size(counter->led), NULL) < 0) {
        return -1;
    }
    if (read_sequence_number(counter) < 0 || read_clock(counter, &done_s) < 0) {
        return -1;
    }
    counter->spent_s += done_s - now_s;
    return 0;
}

/* Check the gradients; return whether all are known to be finite. On any error Python checks instead.
 * The optimizer that ends the step plans the next check, of all optimizers of that step. */
static int are_finite(StepCounter *counter, PyObject *optimizer, int ends_step)
{
    double began_s = 0.0, done_s = 0.0;
    int answer = read_clock(counter, &began_s) < 0 ? -1 : guards_hold(counter->guards);
    if (answer > 0) {
        answer = are_gradients_finite(optimizer);
    }
    if (answer < 0 || read_clock(counter, &done_s) < 0) {
        PyErr_Clear();
        return 0;
    }
    if (answer) { /* otherwise Python checks again, and counts its own time */
        counter->checked_s += done_s - began_s;
        if (ends_step) {
            counter->checks++;
            counter->checks_at = counter->step + counter->check_every;
        }
    }
    return answer;
}

static int has_three_arguments(Py_ssize_t count, const char *name)
{
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "%s(optimizer, args, kwargs)", name);
    }
    return count == 3;
}

static PyObject *call_hook(PyObject *hook, PyObject *const *args)
{
    if (hook == NULL) {
        Py_RETURN_NONE;
    }
    return PyObject_CallFunctionObjArgs(hook, args[0], args[1], args[2], NULL);
}

/* Whether nothing but the check of gradients is needed before this optimizer steps, and the check has been made. */
static int is_handled(StepCounter *counter, PyObject *const *args)
{
    if (!is_idle(counter) || !has_nothing_but_itself(args[1], args[2])) {
        return 0;
    }
    const int ends_step = is_counted(counter, args[0]);
    PyObject *leading = ends_step ? NULL : find_reference(counter->leading, args[0]);
    if (!ends_step && (leading == NULL || find_reference(counter->led, args[0]) != NULL)) {
        return 0;
    }
    if (counter->step >= counter->checks_at
        && (counter->check_every <= 0 || !are_finite(counter, args[0], ends_step))) {
        return 0;
    }
    if (!ends_step && PyList_Append(counter->led, leading) < 0) {
        PyErr_Clear();
        return 0;
    }
    return 1;
}

static PyObject *counter_before(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    StepCounter *counter = (StepCounter *)self;
    if (!has_three_arguments(count, "before")) {
        return NULL;
    }
    if (is_handled(counter, args)) {
        Py_RETURN_NONE;
    }
    return call_hook(counter->on_begin, args);
}

static PyObject *counter_after(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    StepCounter *counter = (StepCounter *)self;
    if (!has_three_arguments(count, "after")) {
        return NULL;
    }
    if (is_idle(counter) && find_reference(counter->led, args[0]) != NULL) {
        Py_RETURN_NONE;
    }
    if (!is_idle(counter) || !is_counted(counter, args[0])) {
        return call_hook(counter->on_end, args);
    }
    if (count_step(counter) < 0) { /* out of memory: report it, do not raise into the training */
        PyErr_WriteUnraisable(self);
        counter->left = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *counter_is_idle(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(is_idle((StepCounter *)self));
}

static PyObject *counter_count(PyObject *self, PyObject *Py_UNUSED(none))
{
    if (count_step((StepCounter *)self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *counter_take(PyObject *self, PyObject *Py_UNUSED(none))
{
    StepCounter *counter = (StepCounter *)self;
    PyObject *empty = PyList_New(0);
    PyObject *taken = empty == NULL ? NULL
                                    : Py_BuildValue("(OdLd)", counter->times_s, counter->spent_s,
                                                    counter->checks, counter->checked_s);
    if (taken == NULL) {
        Py_XDECREF(empty);
        return NULL;
    }
    Py_DECREF(counter->times_s);
    counter->times_s = empty;
    counter->spent_s = counter->checked_s = 0.0;
    counter->checks = 0;
    return taken;
}

/* --- the type --------------------------------------------------------------------------------------- */

static PyObject *counter_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *clock, *sequence_number, *guards;
    long long step;
    if (!PyArg_ParseTuple(args, "LOOO!", &step, &clock, &sequence_number, &PyTuple_Type, &guards)) {
        return NULL;
    }
    StepCounter *counter = (StepCounter *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (counter == NULL) {
        return NULL;
    }
    counter->step = step;
    counter->clock = Py_NewRef(clock);
    counter->sequence_number = Py_NewRef(sequence_number);
    counter->guards = Py_NewRef(guards);
    counter->optimizer = Py_NewRef(Py_None);
    counter->times_s = PyList_New(0);
    counter->leading = PyTuple_New(0);
    counter->led = PyList_New(0);
    if (counter->times_s == NULL || counter->leading == NULL || counter->led == NULL
        || read_sequence_number(counter) < 0 || read_clock(counter, &counter->began_s) < 0) {
        Py_DECREF((PyObject *)counter);
        return NULL;
    }
    return (PyObject *)counter;
}

static int counter_traverse(PyObject *self, visitproc visit, void *arg)
{
    StepCounter *counter = (StepCounter *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(counter->clock);
    Py_VISIT(counter->sequence_number);
    Py_VISIT(counter->on_begin);
    Py_VISIT(counter->on_end);
    Py_VISIT(counter->guards);
    Py_VISIT(counter->optimizer);
    Py_VISIT(counter->leading);
    Py_VISIT(counter->led);
    Py_VISIT(counter->times_s);
    return 0;
}

static int counter_clear(PyObject *self)
{
    StepCounter *counter = (StepCounter *)self;
    Py_CLEAR(counter->on_begin);
    Py_CLEAR(counter->on_end);
    return 0;
}

static void counter_free(PyObject *self)
{
    StepCounter *counter = (StepCounter *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    counter_clear(self);
    Py_XDECREF(counter->clock);
    Py_XDECREF(counter->sequence_number);
    Py_XDECREF(counter->guards);
    Py_XDECREF(counter->optimizer);
    Py_XDECREF(counter->leading);
    Py_XDECREF(counter->led);
    Py_XDECREF(counter->times_s);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef counter_members[] = {
    {"step", T_LONGLONG, offsetof(StepCounter, step), 0, "the step in progress"},
    {"began_s", T_DOUBLE, offsetof(StepCounter, began_s), 0, "when it began, by the clock"},
    {"began_at", T_LONGLONG, offsetof(StepCounter, began_at), 0,
     "when it began, by autograd's count of operations"},
    {"left", T_LONGLONG, offsetof(StepCounter, left), 0, "how many more steps may end as idle steps"},
    {"must_plan", T_BOOL, offsetof(StepCounter, must_plan), 0, "whether the plugins must be asked again"},
    {"checks_at", T_LONGLONG, offsetof(StepCounter, checks_at), 0,
     "the first step in which gradients are checked again"},
    {"check_every", T_LONGLONG, offsetof(StepCounter, check_every), 0,
     "one step in N is checked here; 0: none"},
    {"spent_s", T_DOUBLE, offsetof(StepCounter, spent_s), 0, "seconds spent on the counted steps"},
    {"optimizer", T_OBJECT, offsetof(StepCounter, optimizer), 0,
     "a weak reference to the optimizer that ends steps"},
    {"leading", T_OBJECT, offsetof(StepCounter, leading), 0,
     "weak references to the optimizers that step before it in the same step"},
    {"led", T_OBJECT, offsetof(StepCounter, led), READONLY,
     "those of `leading` that have stepped in this idle step"},
    {"on_begin", T_OBJECT, offsetof(StepCounter, on_begin), 0,
     "called before an optimizer's step that is not idle"},
    {"on_end", T_OBJECT, offsetof(StepCounter, on_end), 0,
     "called after an optimizer's step that is not idle"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef counter_methods[] = {
    {"before", (PyCFunction)(void (*)(void))counter_before, METH_FASTCALL,
     "before(optimizer, args, kwargs): a hook before an optimizer steps"},
    {"after", (PyCFunction)(void (*)(void))counter_after, METH_FASTCALL,
     "after(optimizer, args, kwargs): a hook after it has stepped"},
    {"is_idle", counter_is_idle, METH_NOARGS, "is_idle() -> whether this step and the next one are idle"},
    {"count", counter_count, METH_NOARGS, "count(): end the step in progress and begin the next"},
    {"take", counter_take, METH_NOARGS,
     "take() -> (seconds of each counted step, seconds spent, checks, seconds spent on checks) since the "
     "last call"},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot counter_slots[] = {
    {Py_tp_doc, "StepCounter(step, clock, sequence_number, guards)"},
    {Py_tp_new, counter_new},
    {Py_tp_dealloc, counter_free},
    {Py_tp_traverse, counter_traverse},
    {Py_tp_clear, counter_clear},
    {Py_tp_methods, counter_methods},
    {Py_tp_members, counter_members},
    {0, NULL},
};
static PyType_Spec counter_spec = {"gradscope.native._native.StepCounter", sizeof(StepCounter), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, counter_slots};

int add_counter(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&counter_spec);
    const int is_done = type != NULL && PyModule_AddObjectRef(module, "StepCounter", type) == 0;
    Py_XDECREF(type);
    return is_done ? 0 : -1;
}
