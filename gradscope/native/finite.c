#include "finite.h"

#include "memory.h"
#include "parallel.h"

static PyObject *gradient_name, *groups_name, *parameters_name, *found_name, *dict_name;

/* Whether all elements of a gradient are known to be finite: 0 if it cannot be read here, 1 if it is None. */
static int is_finite(PyObject *gradient)
{
    Memory memory;
    if (gradient == Py_None) {
        return 1;
    }
    if (!find_memory(gradient, &memory)) {
        return 0;
    }
    const Span span = {memory.data, NULL, NULL, memory.stored, memory.dtype};
    const int threads = threads_for(memory.size_bytes);
    PyThreadState *state = memory.size_bytes >= LARGE_BYTES ? PyEval_SaveThread() : NULL;
    const int answer = is_finite_parallel(pass, &span, threads);
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    return answer;
}

static int has_finite_gradient(PyObject *parameter)
{
    Py_INCREF(parameter); /* the list that contains it may change during the call */
    PyObject *gradient = PyObject_GetAttr(parameter, gradient_name);
    Py_DECREF(parameter);
    const int answer = gradient == NULL ? -1 : is_finite(gradient);
    Py_XDECREF(gradient);
    return answer;
}

PyObject *find_nonfinite(PyObject *Py_UNUSED(self), PyObject *parameters)
{
    if (!is_bound() || !PyList_Check(parameters)) {
        PyErr_SetString(PyExc_TypeError,
                        "find_nonfinite takes a list of parameters, once bind() has been called");
        return NULL;
    }
    PyObject *nonfinite = PyList_New(0);
    for (Py_ssize_t i = 0; nonfinite != NULL && i < PyList_Size(parameters); i++) {
        const int is_fine = has_finite_gradient(PyList_GetItem(parameters, i));
        PyObject *place = is_fine ? NULL : PyLong_FromSsize_t(i);
        if (is_fine < 0 || (!is_fine && (place == NULL || PyList_Append(nonfinite, place) < 0))) {
            Py_CLEAR(nonfinite);
        }
        Py_XDECREF(place);
    }
    return nonfinite;
}

/* Whether a GradScaler has checked the gradients, and the optimizer acts on its result. */
static int is_watched_by_scaler(PyObject *optimizer)
{
    PyObject *attributes = PyObject_GetAttr(optimizer, dict_name);
    PyObject *found = attributes == NULL ? NULL : PyObject_GetItem(attributes, found_name);
    Py_XDECREF(attributes);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        return 0;
    }
    Py_XDECREF(found);
    return found == NULL ? -1 : found != Py_None;
}

static int is_group_finite(PyObject *group)
{
    PyObject *parameters = PyObject_GetItem(group, parameters_name);
    int answer = parameters == NULL ? -1 : PyList_Check(parameters);
    for (Py_ssize_t i = 0; answer == 1 && i < PyList_Size(parameters); i++) {
        PyObject *parameter = PyList_GetItem(parameters, i);
        answer = is_plain_parameter(parameter) ? has_finite_gradient(parameter)
                                               : 0; /* a subclass could see the access */
    }
    Py_XDECREF(parameters);
    return answer;
}

int are_gradients_finite(PyObject *optimizer)
{
    const int is_watched = is_watched_by_scaler(optimizer);
    if (!is_bound() || is_watched != 0) {
        return is_watched < 0 ? -1 : 0;
    }
    PyObject *groups = PyObject_GetAttr(optimizer, groups_name);
    int answer = groups == NULL ? -1 : PyList_Check(groups);
    for (Py_ssize_t i = 0; answer == 1 && i < PyList_Size(groups); i++) {
        answer = is_group_finite(PyList_GetItem(groups, i));
    }
    Py_XDECREF(groups);
    return answer;
}

int intern_names(void)
{
    gradient_name = PyUnicode_InternFromString("grad");
    groups_name = PyUnicode_InternFromString("param_groups");
    parameters_name = PyUnicode_InternFromString("params");
    found_name = PyUnicode_InternFromString("found_inf");
    dict_name = PyUnicode_InternFromString("__dict__");
    return gradient_name != NULL && groups_name != NULL && parameters_name != NULL && found_name != NULL
                   && dict_name != NULL
               ? 0
               : -1;
}
