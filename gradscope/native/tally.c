/* Tally(step, clock, sequence_number, begin, end, usual): an optimizer's step hooks, for steps at rest.
 *
 *     before(optimizer, args, kwargs)    looks at gradients where it is time to; else what `begin` does
 *     after(optimizer, args, kwargs)     counts the step, where that is all; else what `end` does
 *
 * They run once in a step, on cold caches, where Python takes longer than it does in a loop. What this does
 * stands in gradscope/agent/step/step_counter.py, which does the same without this.
 */

#include "tally.h"

#include "finite.h"
#include "questions.h"

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
} Tally;

/* Whether the step in progress is at rest, and so is the one after it. */
static int is_at_rest(const Tally *tally)
{
    return tally->left > 0 && !tally->is_stirred && PySet_Size(tally->awake) == 0;
}

static int is_watched(const Tally *tally, PyObject *optimizer)
{
    return PyWeakref_Check(tally->optimizer) && PyWeakref_GetObject(tally->optimizer) == optimizer;
}

static int has_nothing_but_itself(PyObject *args, PyObject *keywords)
{
    return PyTuple_Check(args) && PyTuple_Size(args) == 1
           && (!PyDict_Check(keywords) || PyDict_Size(keywords) == 0);
}

static int read_clock(const Tally *tally, double *now_s)
{
    PyObject *now = PyObject_CallNoArgs(tally->clock);
    *now_s = now == NULL ? 0.0 : PyFloat_AsDouble(now);
    Py_XDECREF(now);
    return PyErr_Occurred() == NULL ? 0 : -1;
}

static int read_sequence_number(Tally *tally)
{
    PyObject *number = PyObject_CallNoArgs(tally->sequence_number);
    const long long value = number == NULL ? -1 : PyLong_AsLongLong(number);
    Py_XDECREF(number);
    if (value == -1 && PyErr_Occurred() != NULL) {
        return -1;
    }
    tally->began_at = value;
    return 0;
}

/* End the step in progress and begin the next. */
static int count_step(Tally *tally)
{
    double now_s, done_s;
    if (read_clock(tally, &now_s) < 0) {
        return -1;
    }
    PyObject *time_s = PyFloat_FromDouble(now_s - tally->began_s);
    const int outcome = time_s == NULL ? -1 : PyList_Append(tally->times_s, time_s);
    Py_XDECREF(time_s);
    if (outcome < 0) {
        return -1;
    }
    tally->left--;
    tally->step++;
    tally->began_s = now_s;
    if (read_sequence_number(tally) < 0 || read_clock(tally, &done_s) < 0) {
        return -1;
    }
    tally->spent_s += done_s - now_s;
    return 0;
}

/* Look at the gradients; return whether all are known to be finite. What went wrong is left to Python. */
static int is_well(Tally *tally, PyObject *optimizer)
{
    double began_s = 0.0, done_s = 0.0;
    int answer = read_clock(tally, &began_s) < 0 ? -1 : is_as_asked(tally->usual);
    if (answer > 0) {
        answer = are_gradients_finite(optimizer);
    }
    if (answer < 0 || read_clock(tally, &done_s) < 0) {
        PyErr_Clear();
        return 0;
    }
    tally->looks++;
    tally->looked_s += done_s - began_s;
    if (answer) {
        tally->looks_at = tally->step + tally->every;
    }
    return answer;
}

static int is_given(Py_ssize_t count, const char *name)
{
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "%s(optimizer, args, kwargs)", name);
    }
    return count == 3;
}

static PyObject *tally_before(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Tally *tally = (Tally *)self;
    if (!is_given(count, "before")) {
        return NULL;
    }
    if (is_at_rest(tally) && is_watched(tally, args[0]) && has_nothing_but_itself(args[1], args[2])
        && (tally->step < tally->looks_at || (tally->every > 0 && is_well(tally, args[0])))) {
        Py_RETURN_NONE;
    }
    return PyObject_CallFunctionObjArgs(tally->begin, args[0], args[1], args[2], NULL);
}

static PyObject *tally_after(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Tally *tally = (Tally *)self;
    if (!is_given(count, "after")) {
        return NULL;
    }
    if (!is_at_rest(tally) || !is_watched(tally, args[0])) {
        return PyObject_CallFunctionObjArgs(tally->end, args[0], args[1], args[2], NULL);
    }
    if (count_step(tally) < 0) { /* no memory: it is not the training's */
        PyErr_WriteUnraisable(self);
        tally->left = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *tally_is_at_rest(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(is_at_rest((Tally *)self));
}

static PyObject *tally_count(PyObject *self, PyObject *Py_UNUSED(none))
{
    if (count_step((Tally *)self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *tally_take(PyObject *self, PyObject *Py_UNUSED(none))
{
    Tally *tally = (Tally *)self;
    PyObject *empty = PyList_New(0);
    PyObject *taken = empty == NULL ? NULL
                                    : Py_BuildValue("(OdLd)", tally->times_s, tally->spent_s, tally->looks,
                                                    tally->looked_s);
    if (taken == NULL) {
        Py_XDECREF(empty);
        return NULL;
    }
    Py_DECREF(tally->times_s);
    tally->times_s = empty;
    tally->spent_s = tally->looked_s = 0.0;
    tally->looks = 0;
    return taken;
}

/* --- the type --------------------------------------------------------------------------------------- */

static PyObject *tally_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *clock, *sequence_number, *begin, *end, *usual;
    long long step;
    if (!PyArg_ParseTuple(args, "LOOOOO!", &step, &clock, &sequence_number, &begin, &end, &PyTuple_Type,
                          &usual)) {
        return NULL;
    }
    Tally *tally = (Tally *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (tally == NULL) {
        return NULL;
    }
    tally->step = step;
    tally->clock = Py_NewRef(clock);
    tally->sequence_number = Py_NewRef(sequence_number);
    tally->begin = Py_NewRef(begin);
    tally->end = Py_NewRef(end);
    tally->usual = Py_NewRef(usual);
    tally->optimizer = Py_NewRef(Py_None);
    tally->awake = PySet_New(NULL);
    tally->times_s = PyList_New(0);
    if (tally->awake == NULL || tally->times_s == NULL || read_sequence_number(tally) < 0
        || read_clock(tally, &tally->began_s) < 0) {
        Py_DECREF((PyObject *)tally);
        return NULL;
    }
    return (PyObject *)tally;
}

static int tally_traverse(PyObject *self, visitproc visit, void *arg)
{
    Tally *tally = (Tally *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(tally->clock);
    Py_VISIT(tally->sequence_number);
    Py_VISIT(tally->begin);
    Py_VISIT(tally->end);
    Py_VISIT(tally->usual);
    Py_VISIT(tally->optimizer);
    Py_VISIT(tally->awake);
    Py_VISIT(tally->times_s);
    return 0;
}

static int tally_clear(PyObject *self)
{
    Tally *tally = (Tally *)self;
    Py_CLEAR(tally->begin);
    Py_CLEAR(tally->end);
    return 0;
}

static void tally_free(PyObject *self)
{
    Tally *tally = (Tally *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    tally_clear(self);
    Py_XDECREF(tally->clock);
    Py_XDECREF(tally->sequence_number);
    Py_XDECREF(tally->usual);
    Py_XDECREF(tally->optimizer);
    Py_XDECREF(tally->awake);
    Py_XDECREF(tally->times_s);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef tally_members[] = {
    {"step", T_LONGLONG, offsetof(Tally, step), 0, "the step in progress"},
    {"began_s", T_DOUBLE, offsetof(Tally, began_s), 0, "when it began, by the clock"},
    {"began_at", T_LONGLONG, offsetof(Tally, began_at), 0, "and by autograd's count of operations"},
    {"left", T_LONGLONG, offsetof(Tally, left), 0, "how many more steps end at rest"},
    {"looks_at", T_LONGLONG, offsetof(Tally, looks_at), 0, "the step from which on gradients are looked at"},
    {"every", T_LONGLONG, offsetof(Tally, every), 0, "one step of so many is looked at here; 0: none"},
    {"is_stirred", T_BOOL, offsetof(Tally, is_stirred), 0, "whether anything was asked for"},
    {"spent_s", T_DOUBLE, offsetof(Tally, spent_s), 0, "the time that was spent on what was counted"},
    {"optimizer", T_OBJECT, offsetof(Tally, optimizer), 0, "a weak reference to whose step ends a step"},
    {"awake", T_OBJECT, offsetof(Tally, awake), READONLY, "who has something to do in each step"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef tally_methods[] = {
    {"before", (PyCFunction)(void (*)(void))tally_before, METH_FASTCALL,
     "before(optimizer, args, kwargs): a hook before an optimizer steps"},
    {"after", (PyCFunction)(void (*)(void))tally_after, METH_FASTCALL,
     "after(optimizer, args, kwargs): a hook after it has stepped"},
    {"is_at_rest", tally_is_at_rest, METH_NOARGS, "is_at_rest() -> whether this step is, and the next"},
    {"count", tally_count, METH_NOARGS, "count(): end the step in progress and begin the next"},
    {"take", tally_take, METH_NOARGS, "take() -> (times of the steps counted, seconds spent, looks, seconds looked) since last asked"},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot tally_slots[] = {
    {Py_tp_doc, "Tally(step, clock, sequence_number, begin, end, usual)"},
    {Py_tp_new, tally_new},           {Py_tp_dealloc, tally_free},
    {Py_tp_traverse, tally_traverse}, {Py_tp_clear, tally_clear},
    {Py_tp_methods, tally_methods},   {Py_tp_members, tally_members},
    {0, NULL},
};
static PyType_Spec tally_spec = {"gradscope.native._native.Tally", sizeof(Tally), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, tally_slots};

int add_tally(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&tally_spec);
    const int is_done = type != NULL && PyModule_AddObjectRef(module, "Tally", type) == 0;
    Py_XDECREF(type);
    return is_done ? 0 : -1;
}
