"""The codes of the function doctor, from causes to consequences: a code is before the codes that it explains."""

from gradscope.findings.finding import Code, Place, Severity

__all__ = ["DOCTOR_CODES"]

_WRONG_VALUE = ("missing-transpose", "wrong-gradient-sign", "wrong-gradient-scale", "wrong-gradient")
"""Gradients that are not the derivative."""

_SECOND_ORDER = ("graph-broken", "wrong-second-gradient", "not-twice-differentiable")
"""Faults of second derivatives."""

_LAYOUT = ("fails-on-noncontiguous", "fails-on-expanded-gradient", "fails-on-empty")
"""Failures on other memory layouts and on empty batches."""

_APPROXIMATE = (
    "finite differences with too large or too small a step, or too few samples",
    (
        "use central differences in double with a step of 1e-6 times the input's size, more samples, or the "
        "analytical gradient"
    ),
)


def _code(
    name: str,
    place: Place,
    severity: Severity,
    meaning: str,
    cause: str,
    fix: str,
    explains: tuple[str, ...] = (),
) -> Code:
    """Return a code of which one finding explains the others, such as those of other inputs."""
    return Code(name, place, severity, meaning, cause, fix, explains=(name, *explains))


DOCTOR_CODES: dict[str, Code] = {
    code.name: code
    for code in (
        _code(
            "non-tensor-saved",
            "forward",
            "error",
            "save_for_backward gets something that is not a tensor",
            "save_for_backward takes only tensors and None",
            "save numbers, shapes and strings as attributes: ctx.alpha = alpha",
            ("forward-raises",),
        ),
        _code(
            "saved-tensors-in-forward",
            "forward",
            "error",
            "ctx.saved_tensors is read in forward",
            "tensors passed to save_for_backward can be read only when backward runs",
            "use the tensor itself in forward; read ctx.saved_tensors in backward only",
            ("forward-raises", "forward-nonfinite"),
        ),
        _code(
            "forward-inplace-input",
            "forward",
            "error",
            "forward writes to one of its inputs",
            "the caller's tensor now holds other values, and autograd does not know: gradients that need the "
            "old values are wrong",
            "change a copy (x = x.clone()) or use the out-of-place operation; if the write is intended, call "
            "ctx.mark_dirty(x) and return x",
            (
                *("forward-raises", "backward-raises", "input-returned-as-is", "nondeterministic"),
                *_WRONG_VALUE,
                *_SECOND_ORDER,
                *_LAYOUT,
            ),
        ),
        _code(
            "grad-output-modified",
            "backward",
            "error",
            "backward writes to grad_output",
            "other branches of the graph, and hooks, read the memory of grad_output",
            "compute a new tensor: grad = grad_output * mask, not grad_output *= mask; clone() it first if an "
            "in-place operation is needed",
            ("backward-raises", "nondeterministic", *_WRONG_VALUE, *_SECOND_ORDER, *_LAYOUT),
        ),
        _code(
            "saved-tensor-modified",
            "backward",
            "error",
            "backward writes to a saved tensor",
            "a saved tensor shares memory with forward's input or output and with later backward passes "
            "(retain_graph), which then read other values",
            "compute a new tensor from it, or clone() it before writing",
            ("backward-raises", "nondeterministic", *_WRONG_VALUE, *_SECOND_ORDER, *_LAYOUT),
        ),
        _code(
            "forward-raises",
            "forward",
            "error",
            "forward raises an exception, or does not return",
            "forward raised an exception on these inputs",
            "run it alone on these inputs, and check the line named here",
        ),
        _code(
            "forward-nonfinite",
            "forward",
            "error",
            "forward returns NaN or infinity for finite inputs",
            "an overflow, a division by zero, or a logarithm or root outside its domain",
            "use a numerically stable formula (subtract the maximum before exp, use log1p or expm1, clamp a "
            "denominator)",
            ("gradient-nonfinite",),
        ),
        _code(
            "wrong-gradient-count",
            "backward",
            "error",
            "backward returns too few or too many gradients",
            "backward must return one value for each argument of forward except ctx",
            "return as many values as forward has arguments, None for arguments that are not tensors",
            ("backward-raises",),
        ),
        _code(
            "missing-transpose",
            "backward",
            "error",
            "a matrix product in backward lacks a transpose",
            "a matrix product was differentiated without a transpose; square matrices hide it",
            "for y = x @ w: dx = dy @ w.mT and dw = x.mT @ dy; for y = x @ w.mT: dx = dy @ w and dw = dy.mT @ x",
            ("backward-raises", "gradient-shape-mismatch", *_SECOND_ORDER, *_LAYOUT),
        ),
        _code(
            "gradient-shape-mismatch",
            "backward",
            "error",
            "a gradient does not have the shape of its argument",
            "the gradient must have the shape of its argument; no broadcast explains this one",
            "return a gradient of the argument's shape: expand a scalar, expand reduced dims",
            ("backward-raises",),
        ),
        _code(
            "gradient-device-mismatch",
            "backward",
            "warning",
            "a gradient is on another device than its argument",
            "autograd moves a single number silently in each step, and raises for other tensors",
            "create tensors in backward on grad_output.device",
            ("backward-raises", *_WRONG_VALUE),
        ),
        _code(
            "backward-raises",
            "backward",
            "error",
            "backward raises an exception, or does not return",
            "backward raised an exception on these inputs",
            "run it alone on these inputs, and check the line named here",
        ),
        _code(
            "gradient-nonfinite",
            "backward",
            "error",
            "a gradient contains NaN or infinity",
            "backward divides by a number that can be zero, or multiplies 0 by infinity",
            "handle the singular points separately: torch.where on the argument before the division, not on "
            "its result",
            ("gradient-too-large", "gradient-too-small"),
        ),
        _code(
            "broadcast-not-reduced",
            "backward",
            "error",
            "the gradient of a broadcast argument is not summed",
            "the argument was broadcast in forward; PyTorch sums such a gradient silently, so gradcheck "
            "passes, but torch.func or a compiled graph may fail",
            "sum over the broadcast dims before returning: grad.sum_to_size(x.shape)",
            (*_WRONG_VALUE, *_SECOND_ORDER),
        ),
        _code(
            "gradient-dtype-mismatch",
            "backward",
            "warning",
            "a gradient does not have the dtype of its argument",
            "autograd casts it silently: a narrower dtype loses digits, a wider one costs memory",
            "return the gradient in the argument's dtype: grad.to(x.dtype)",
            (*_WRONG_VALUE, *_SECOND_ORDER),
        ),
        _code(
            "missing-gradient",
            "backward",
            "error",
            "an input on which the output depends has no gradient",
            "backward returns None instead of the gradient, or forward detaches the input",
            "compute and return the gradient of the input; if it should have none, pass it without "
            "requires_grad",
            (*_SECOND_ORDER, *_LAYOUT),
        ),
        _code(
            "wrong-gradient-sign",
            "backward",
            "error",
            "a gradient is the derivative with its sign flipped",
            "a minus sign is missing, or there is one too many (as in the derivative of a difference by its "
            "second term)",
            "negate the gradient that backward returns for it",
            _SECOND_ORDER,
        ),
        _code(
            "wrong-gradient-scale",
            "backward",
            "error",
            "a gradient is a constant times the derivative",
            "a constant factor is missing: the exponent of a power, the count of a mean",
            "divide the gradient that backward returns for it by the factor",
            _SECOND_ORDER,
        ),
        _code(
            "wrong-gradient",
            "backward",
            "error",
            "a gradient is not the derivative of forward",
            "backward is not the derivative of forward: a wrong formula, or a missing term",
            "derive the formula again, one factor of the chain rule at a time; start with the element named "
            "here",
            _SECOND_ORDER,
        ),
        _code(
            "approximate-poor",
            "backward",
            "error",
            "an approximate gradient is off by more than 1e-2 of its norm",
            *_APPROXIMATE,
        ),
        _code(
            "uses-data",
            "",
            "warning",
            ".data is used",
            ".data shares memory with the tensor, and autograd sees neither its graph nor writes to it: "
            "gradients can be silently wrong",
            "use .detach() to cut the graph, which still detects in-place writes; otherwise use the tensor "
            "itself",
            ("graph-broken",),
        ),
        _code(
            "saved-on-ctx",
            "forward",
            "warning",
            "a tensor is kept as an attribute of ctx",
            "autograd does not check attributes of ctx for later writes, does not pass them to saved-tensor "
            "hooks (checkpointing, offloading) and does not free them after backward; an output among them is "
            "a reference cycle",
            "use ctx.save_for_backward(tensor) in forward and ctx.saved_tensors in backward",
            ("graph-broken",),
        ),
        _code(
            "graph-broken",
            "backward",
            "warning",
            "backward cuts the graph, so a second derivative is silently wrong",
            "backward uses an operation that autograd does not record (.data, detach, numpy, item, no_grad), "
            "or a clone or intermediate of forward, which has no graph",
            "save the inputs and outputs themselves and recompute intermediates in backward; or declare "
            "backward with @once_differentiable, so that a second derivative raises",
        ),
        _code(
            "wrong-second-gradient",
            "backward",
            "error",
            "the second derivative is wrong or not finite, although the graph is complete",
            "backward calls a custom Function whose own backward is wrong",
            "examine that Function",
        ),
        _code(
            "fails-on-noncontiguous",
            "",
            "error",
            "non-contiguous tensors give other results",
            "the function assumes a contiguous layout: .view on a strided tensor, or a raw pointer",
            "use .reshape, or call .contiguous() on the arguments first",
        ),
        _code(
            "fails-on-expanded-gradient",
            "backward",
            "error",
            "a gradient of stride 0 gives other results",
            "backward writes to grad_output, or reads its memory as if it were dense",
            "call grad_output.contiguous() first, or use out-of-place operations",
        ),
        _code(
            "nondeterministic",
            "",
            "warning",
            "two runs on the same inputs differ",
            "the function keeps state between calls, draws from a generator of its own, or reads "
            "uninitialised memory",
            "pass the state or the noise as an argument; fill tensors from torch.empty",
        ),
        _code(
            "not-twice-differentiable",
            "backward",
            "warning",
            "a second derivative raises an exception",
            "backward uses code that autograd cannot differentiate (NumPy, in-place, foreign code)",
            "use differentiable operations in backward, or declare it with @once_differentiable",
        ),
        _code(
            "fails-on-empty",
            "",
            "warning",
            "a batch of one row or of none fails",
            "a reduction without an identity (max, argmin) or a -1 in a shape fails on no elements",
            "pass the full shape, or return early if x.numel() is 0; a batch can be empty behind a filter or a "
            "router",
        ),
        _code(
            "backward-never-called",
            "backward",
            "warning",
            "a class that is not an autograd Function defines backward",
            "the gradients are those of the operations in its forward",
            "move forward and backward as static methods to a torch.autograd.Function, and call its apply in "
            "forward; or delete backward",
        ),
        _code(
            "gradient-too-large",
            "backward",
            "warning",
            "a gradient is above 1e6",
            "the function is very steep at these inputs, or a division is missing in backward",
            "scale the inputs, or compute logarithms; the next steps compare the formula with finite "
            "differences",
        ),
        _code(
            "gradient-too-small",
            "backward",
            "warning",
            "a gradient is below 1e-6 and not 0",
            "the function is saturated at these inputs, or backward has one division too many",
            "examine it at inputs with a larger slope; the next steps compare the formula with finite "
            "differences",
        ),
        _code(
            "ignores-needs-input-grad",
            "backward",
            "hint",
            "backward computes gradients that are not needed",
            "backward does not check ctx.needs_input_grad, so a frozen input costs as much as a trained one",
            "compute the gradient of argument i only if ctx.needs_input_grad[i], otherwise return None",
        ),
        _code(
            "approximate-noticeable",
            "backward",
            "hint",
            "an approximate gradient is off by more than 1e-3 of its norm",
            *_APPROXIMATE,
        ),
        _code(
            "gradient-by-design",
            "backward",
            "hint",
            "a gradient is not the derivative, and looks intended",
            "reversal, scaling, clipping, stopping and straight-through estimators have such gradients",
            "nothing, if it is intended; state it in the docstring, because gradcheck will fail",
        ),
        _code(
            "input-returned-as-is",
            "forward",
            "hint",
            "forward returns an input unchanged",
            "autograd makes the result a view of the input; a caller that writes to it in place (such as an "
            "in-place ReLU) gets an error",
            "return x.clone() if callers may write in place; view_as causes the same error",
        ),
        _code(
            "reimplements-builtin",
            "",
            "hint",
            "PyTorch has this operation",
            "PyTorch has this operation: it is fused, tested, and works under torch.func and torch.compile",
            "call the operation of PyTorch",
        ),
    )
}
