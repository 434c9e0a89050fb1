/* StepCounter(step, clock, sequence_number, begin, end, usual): an optimizer's step hooks, for steps at rest.
 *
 *     before(optimizer, args, kwargs)    looks at gradients where it is time to; else what `begin` does
 *     after(optimizer, args, kwargs)     counts the step, where that is all; else what `end` does
 *
 * They run once in a step, on cold caches, where Python takes longer than it does in a loop. What this does
 * stands in gradscope/agent/step/step_counter.py, which does the same without this.
 */

#include "step_counter.h"

#include "finite.h"
#include "guards.h"

#include <stddef.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    PyObject *clock, *sequence_number, *begin, *end;
    PyObject *optimizer; /* a weak reference to the one whose step ends a step; or None */
    PyObject *awake;     /* a set */
    PyObject *times_s;   /* a list */
    PyObject *usual;     /* tuple of (question, answer) */
    double began_s, spent_s, looked_s;
    long long step, began_at, left, looks_at, every, looks;
    char is_stirred;
} StepCounter;

/* Whether the step in progress is at rest, and so is the one after it. */
static int is_at_rest(const StepCounter *counter)
{
    return counter->left > 0 && !counter->is_stirred && PySet_Size(counter->awake) == 0;
}

static int is_watched(const StepCounter *counter, PyObject *optimizer)
{
    return PyWeakref_Check(counter->optimizer) && PyWeakref_GetObject(counter->optimizer) == optimizer;
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
    if (read_sequence_number(counter) < 0 || read_clock(counter, &done_s) < 0) {
        return -1;
    }
    counter->spent_s += done_s - now_s;
    return 0;
}

/* Look at the gradients; return whether all are known to be finite. What went wrong is left to Python. */
static int is_well(StepCounter *counter, PyObject *optimizer)
{
    double began_s = 0.0, done_s = 0.0;
    int answer = read_clock(counter, &began_s) < 0 ? -1 : guards_hold(counter->usual);
    if (answer > 0) {
        answer = are_gradients_finite(optimizer);
    }
    if (answer < 0 || read_clock(counter, &done_s) < 0) {
        PyErr_Clear();
        return 0;
    }
    counter->looks++;
    counter->looked_s += done_s - began_s;
    if (answer) {
        counter->looks_at = counter->step + counter->every;
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

static PyObject *counter_before(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    StepCounter *counter = (StepCounter *)self;
    if (!has_three_arguments(count, "before")) {
        return NULL;
    }
    if (is_at_rest(counter) && is_watched(counter, args[0]) && has_nothing_but_itself(args[1], args[2])
        && (counter->step < counter->looks_at || (counter->every > 0 && is_well(counter, args[0])))) {
        Py_RETURN_NONE;
    }
    return PyObject_CallFunctionObjArgs(counter->begin, args[0], args[1], args[2], NULL);
}

static PyObject *counter_after(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    StepCounter *counter = (StepCounter *)self;
    if (!has_three_arguments(count, "after")) {
        return NULL;
    }
    if (!is_at_rest(counter) || !is_watched(counter, args[0])) {
        return PyObject_CallFunctionObjArgs(counter->end, args[0], args[1], args[2], NULL);
    }
    if (count_step(counter) < 0) { /* no memory: it is not the training's */
        PyErr_WriteUnraisable(self);
        counter->left = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *counter_is_at_rest(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(is_at_rest((StepCounter *)self));
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
                                                    counter->looks, counter->looked_s);
    if (taken == NULL) {
        Py_XDECREF(empty);
        return NULL;
    }
    Py_DECREF(counter->times_s);
    counter->times_s = empty;
    counter->spent_s = counter->looked_s = 0.0;
    counter->looks = 0;
    return taken;
}

/* --- the type --------------------------------------------------------------------------------------- */

static PyObject *counter_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *clock, *sequence_number, *begin, *end, *usual;
    long long step;
    if (!PyArg_ParseTuple(args, "LOOOOO!", &step, &clock, &sequence_number, &begin, &end, &PyTuple_Type,
                          &usual)) {
        return NULL;
    }
    StepCounter *counter = (StepCounter *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (counter == NULL) {
        return NULL;
    }
    counter->step = step;
    counter->clock = Py_NewRef(clock);
    counter->sequence_number = Py_NewRef(sequence_number);
    counter->begin = Py_NewRef(begin);
    counter->end = Py_NewRef(end);
    counter->usual = Py_NewRef(usual);
    counter->optimizer = Py_NewRef(Py_None);
    counter->awake = PySet_New(NULL);
    counter->times_s = PyList_New(0);
    if (counter->awake == NULL || counter->times_s == NULL || read_sequence_number(counter) < 0
        || read_clock(counter, &counter->began_s) < 0) {
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
    Py_VISIT(counter->begin);
    Py_VISIT(counter->end);
    Py_VISIT(counter->usual);
    Py_VISIT(counter->optimizer);
    Py_VISIT(counter->awake);
    Py_VISIT(counter->times_s);
    return 0;
}

static int counter_clear(PyObject *self)
{
    StepCounter *counter = (StepCounter *)self;
    Py_CLEAR(counter->begin);
    Py_CLEAR(counter->end);
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
    Py_XDECREF(counter->usual);
    Py_XDECREF(counter->optimizer);
    Py_XDECREF(counter->awake);
    Py_XDECREF(counter->times_s);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef counter_members[] = {
    {"step", T_LONGLONG, offsetof(StepCounter, step), 0, "the step in progress"},
    {"began_s", T_DOUBLE, offsetof(StepCounter, began_s), 0, "when it began, by the clock"},
    {"began_at", T_LONGLONG, offsetof(StepCounter, began_at), 0, "and by autograd's count of operations"},
    {"left", T_LONGLONG, offsetof(StepCounter, left), 0, "how many more steps end at rest"},
    {"looks_at", T_LONGLONG, offsetof(StepCounter, looks_at), 0,
     "the step from which on gradients are looked at"},
    {"every", T_LONGLONG, offsetof(StepCounter, every), 0, "one step of so many is looked at here; 0: none"},
    {"is_stirred", T_BOOL, offsetof(StepCounter, is_stirred), 0, "whether anything was asked for"},
    {"spent_s", T_DOUBLE, offsetof(StepCounter, spent_s), 0, "the time that was spent on what was counted"},
    {"optimizer", T_OBJECT, offsetof(StepCounter, optimizer), 0,
     "a weak reference to whose step ends a step"},
    {"awake", T_OBJECT, offsetof(StepCounter, awake), READONLY, "who has something to do in each step"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef counter_methods[] = {
    {"before", (PyCFunction)(void (*)(void))counter_before, METH_FASTCALL,
     "before(optimizer, args, kwargs): a hook before an optimizer steps"},
    {"after", (PyCFunction)(void (*)(void))counter_after, METH_FASTCALL,
     "after(optimizer, args, kwargs): a hook after it has stepped"},
    {"is_at_rest", counter_is_at_rest, METH_NOARGS, "is_at_rest() -> whether this step is, and the next"},
    {"count", counter_count, METH_NOARGS, "count(): end the step in progress and begin the next"},
    {"take", counter_take, METH_NOARGS,
     "take() -> (times of the steps counted, seconds spent, looks, seconds looked) since last asked"},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot counter_slots[] = {
    {Py_tp_doc, "StepCounter(step, clock, sequence_number, begin, end, usual)"},
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
