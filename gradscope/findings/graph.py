"""Checks of the autograd graph between the loss and the parameters, in one early step.

Each check is a function of `GraphFacts` and returns findings. It sees operations and shapes, no values.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from gradscope.findings.codes import finding
from gradscope.findings.facts import Consumers, GraphFacts, GraphNode
from gradscope.findings.finding import Finding, Severity

__all__ = ["GRAPH_CHECKS", "GraphCheck", "find_graph_faults"]

GraphCheck: TypeAlias = Callable[[GraphFacts], list[Finding]]

_ELEMENTWISE_LOSSES = (
    *("MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits"),
    *("SoftMarginLoss", "KlDiv"),
)
_LOSSES = ("NllLoss", "NllLoss2D", *_ELEMENTWISE_LOSSES)
_REDUCING = frozenset(
    {
        *("Mean", "Sum", "Pow", "Abs", "Mul", "Div", "Sqrt", "Neg", "Add", "Sub"),
        *("Where", "Clamp", "Log", "Gather"),
    }
)
"""Operations of which losses are written by hand."""


_ATTENTION = re.compile(
    r"in_proj|attn|attention|(^|[._])(q|k|v|qkv|query|key|value)([._]|$)", re.IGNORECASE
)
"""Names of the weights with which attention projects its input."""


_BATCH_NORMS = frozenset(
    {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormWithUpdate"}
)
"""They scale and shift each channel: with fixed statistics, as in inference, they are linear."""


def find_graph_faults(facts: GraphFacts) -> list[Finding]:
    """Return the findings of all checks."""
    return [found for check in GRAPH_CHECKS for found in check(facts)]


def double_softmax(facts: GraphFacts) -> list[Finding]:
    """Find a softmax whose result goes through the softmax of a loss, and a sigmoid before the with-logits loss.

    A log_softmax of a log_softmax changes nothing, so it is silent.
    """
    for outer, inner in (("LogSoftmax", "Softmax"), ("BinaryCrossEntropyWithLogits", "Sigmoid")):
        for _, node in facts.named(outer):
            position = facts.source(node.inputs[0]) if node.inputs else -1
            if position >= 0 and facts.nodes[position].operation == inner:
                layers = _activation(facts, position)
                return [
                    finding(
                        "double-softmax",
                        f"{inner.lower()} is applied twice: in the model and in the loss{_after(layers)}",
                        step=facts.step,
                        layers=layers,
                        evidence={"shape": str(facts.nodes[position].shape)},
                    )
                ]
    return []


def wrong_softmax_dim(facts: GraphFacts) -> list[Finding]:
    """Find a softmax over the batch dimension: over dimension 0, whose length is the batch size of the loss.

    Silent if dimension 0 has another length, as in attention over the instances of one sample.
    """
    batch = _batch_size(facts)
    for name in ("LogSoftmax", "Softmax"):
        for position, node in facts.named(name):
            shape = node.shape
            if node.dim is None or shape is None or len(shape) < 2 or batch is None or batch < 2:
                continue
            if node.dim % len(shape) == 0 and shape[0] == batch:
                layers = _activation(facts, position)
                return [
                    finding(
                        "wrong-softmax-dim",
                        f"softmax normalizes over dimension 0 of {shape}, which is the batch{_after(layers)}",
                        step=facts.step,
                        layers=layers,
                        evidence={"batch_size": float(batch), "shape": str(shape)},
                    )
                ]
    return []


def loss_broadcast(facts: GraphFacts) -> list[Finding]:
    """Find a loss that compares N predictions with N targets as N times N pairs: (N, 1) against (N,).

    In a loss written by hand, one operand of the difference must be a constant, so a matrix of distances
    between outputs is silent.
    """
    for name in _ELEMENTWISE_LOSSES:
        for _, node in facts.named(name):
            position = node.inputs[0] if node.inputs else -1
            found = _expanded(facts, position)
            if found is not None:
                return [_broadcast(facts, position, *found)]
    for position in _near_loss(facts):
        node = facts.nodes[position]
        if node.operation != "Sub" or sum(each < 0 for each in node.inputs) != 1 or node.shape is None:
            continue
        operand = next(each for each in node.inputs if each >= 0)
        small = _expanded(facts, operand) or (facts.nodes[operand].shape, node.shape)
        if small[0] is not None and _is_square_of(small[0], node.shape):
            return [_broadcast(facts, operand, small[0], node.shape)]
    return []


def relu_at_output(facts: GraphFacts) -> list[Finding]:
    """Find a ReLU as the last operation before a loss that needs negative values.

    Before a squared error it is a hint: targets that are never negative are legitimate.
    """
    severities: dict[str, Severity] = {
        "LogSoftmax": "warning",
        "BinaryCrossEntropyWithLogits": "warning",
        "MseLoss": "hint",
    }
    for name, severity in severities.items():
        for position, node in facts.named(name):
            is_loss = name != "LogSoftmax" or _feeds(facts, position, ("NllLoss", "NllLoss2D"))
            source = facts.source(node.inputs[0]) if node.inputs and is_loss else -1
            if source >= 0 and facts.nodes[source].operation == "Relu":
                layers = _activation(facts, source)
                return [
                    finding(
                        "relu-at-output",
                        f"ReLU is the last operation before the loss{_after(layers)}",
                        step=facts.step,
                        layers=layers,
                        severity=severity,
                        evidence={"shape": str(facts.nodes[source].shape)},
                    )
                ]
    return []


def linear_chain(facts: GraphFacts) -> list[Finding]:
    """Find two linear layers or convolutions with nothing non-linear between them, which are no more than one.

    Silent if the result of the first one has another use too (a residual connection, several heads), if
    the pair is a factorization around a waist narrower than both ends or into groups (depthwise
    separable), and if a pair with a waist is added to another path (LoRA). A hint at the
    projections of an attention, for a convolution with a kernel of one pixel, which projects channels, or
    of one row or column, and after a BatchNorm without weights, which is the end of an encoder (SimSiam).
    """
    pairs: list[_Pair] = []
    consumers = facts.consumers()
    for position in range(len(facts.nodes)):
        outer = _linear(facts, position)
        source = -1 if outer is None else _affine_source(facts, outer.data)
        inner = _linear(facts, source)
        if outer is None or inner is None or inner.weight == outer.weight:
            continue
        is_used_once = _only_user(facts, consumers, source) == position
        is_narrow = outer.inputs < min(inner.inputs, outer.outputs)
        is_added = outer.inputs < max(inner.inputs, outer.outputs) and _is_added(
            facts, consumers, position
        )
        if is_used_once and not is_narrow and not is_added and _is_dense(facts, outer, inner):
            pairs.append(_Pair(inner, outer, _is_usual(facts, inner, outer)))
    if not pairs:
        return []
    faults = [pair for pair in pairs if not pair.is_usual]
    shown = faults or pairs
    first, last = shown[-1].inner, shown[-1].outer
    more = f", and {len(shown) - 1} more pairs" if len(shown) > 1 else ""
    return [
        finding(
            "linear-chain",
            f"nothing non-linear is between `{first.layer}` and `{last.layer}`{more}",
            step=facts.step,
            layers=tuple(
                dict.fromkeys(
                    each.layer for pair in reversed(shown) for each in (pair.inner, pair.outer)
                )
            ),
            severity="warning" if faults else "hint",
            evidence={
                "pairs": float(len(shown)),
                "sizes": f"{first.inputs} → {first.outputs} → {last.outputs}",
            },
        )
    ]


def detached_loss_part(facts: GraphFacts) -> list[Finding]:
    """Find a term of a sum at the loss that has no gradient.

    A warning if operations were recorded after the last layer that do not lead to the loss: the term was
    computed from the output and then detached. Otherwise a hint: it may be a constant. Silent for the
    number with which sum() and `total = 0` begin.
    """
    position, outer = _scalar_source(facts, 0), 0
    while position >= 0 and facts.nodes[position].operation in ("Add", "Sub"):
        node = facts.nodes[position]
        inside = [_scalar_source(facts, each) for each in node.inputs if each >= 0]
        sums = [each for each in inside if facts.nodes[each].operation in ("Add", "Sub")]
        if len(inside) == 1 and (sums or not outer):
            lost = _lost_operations(facts, node.sequence)
            return [
                finding(
                    "detached-loss-part",
                    f"a term that is added to the loss has no gradient: it was detached after {lost} operations"
                    if lost
                    else "a number or a detached term is added to the loss: it has no gradient and does not "
                    "change the training",
                    step=facts.step,
                    severity="warning" if lost else "hint",
                    evidence={"operations_without_gradient": float(lost)},
                )
            ]
        position, outer = (sums[0] if sums else -1), outer + 1
    return []


GRAPH_CHECKS: tuple[GraphCheck, ...] = (
    double_softmax,
    wrong_softmax_dim,
    loss_broadcast,
    relu_at_output,
    linear_chain,
    detached_loss_part,
)
"""All checks, in the order in which they run."""


def _scalar_source(facts: GraphFacts, position: int) -> int:
    """Follow operations with one moving input on numbers: a scale, a sign, a change of the shape."""
    while position >= 0:
        node = facts.nodes[position]
        moving = [each for each in node.inputs if each >= 0]
        is_passed = node.operation in ("Neg", "ToCopy", "Mul", "Div", "View", "Squeeze", "Clone")
        if not is_passed or len(moving) != 1 or math.prod(node.shape or (0,)) != 1:
            return position
        position = moving[0]
    return position


def _lost_operations(facts: GraphFacts, until: int) -> int:
    """Count the operations between the last layer and the loss that autograd recorded and that do not lead to it."""
    with_parameters = [
        node.sequence
        for node in facts.nodes
        if any(each >= 0 and _is_of_parameter(facts, each) for each in node.inputs)
    ]
    known = {node.sequence for node in facts.nodes}
    if until < 0 or not with_parameters:
        return 0
    return sum(number not in known for number in range(max(with_parameters) + 1, until))


def _is_of_parameter(facts: GraphFacts, position: int) -> bool:
    """Return whether an input is a parameter, as it is or with another shape."""
    return facts.nodes[facts.source(position)].parameter is not None


def _broadcast(
    facts: GraphFacts, position: int, small: tuple[int, ...], large: tuple[int, ...]
) -> Finding:
    layer = facts.layer_of(position)
    layers = () if layer is None else (layer,)
    return finding(
        "loss-broadcast",
        f"the loss compares {large} values, but the output{_after(layers)} has the shape {small}: each "
        "prediction is compared with every target",
        step=facts.step,
        layers=layers,
        evidence={"output_shape": str(small), "compared_shape": str(large)},
    )


def _expanded(facts: GraphFacts, position: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shapes before and after if an operation repeats N elements to N times N; otherwise None."""
    if position < 0 or facts.nodes[position].operation != "Expand":
        return None
    large = facts.nodes[position].shape
    inside = next((each for each in facts.nodes[position].inputs if each >= 0), -1)
    small = facts.nodes[inside].shape if inside >= 0 else None
    return (
        (small, large)
        if small is not None and large is not None and _is_square_of(small, large)
        else None
    )


def _is_square_of(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    count = math.prod(small)
    return count > 1 and math.prod(large) >= count * count and max(large) == max(small)


def _near_loss(facts: GraphFacts) -> list[int]:
    """Return the operations of a loss that is written by hand, from the loss on."""
    near = [0]
    for position in near:
        if facts.nodes[position].operation in _REDUCING:
            near += [each for each in facts.nodes[position].inputs if each >= 0 and each not in near]
    return near


def _batch_size(facts: GraphFacts) -> int | None:
    """Return the length of the first dimension of what the loss is computed from."""
    for name in _LOSSES:
        for _, node in facts.named(name):
            shape = facts.nodes[node.inputs[0]].shape if node.inputs and node.inputs[0] >= 0 else None
            if shape:
                return shape[0]
    shapes = [facts.nodes[position].shape for position in _near_loss(facts)]
    return next((shape[0] for shape in shapes if shape), None)


def _feeds(facts: GraphFacts, position: int, names: tuple[str, ...]) -> bool:
    return any(
        facts.source(each) == position
        for name in names
        for _, node in facts.named(name)
        for each in node.inputs[:1]
    )


@dataclass(frozen=True, slots=True)
class _Linear:
    """A linear layer or a convolution. data: the position of its input. kernel: empty for a linear layer."""

    data: int
    weight: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...]

    @property
    def layer(self) -> str:
        return self.weight.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two layers in a row. is_usual: there are programs that do this on purpose."""

    inner: _Linear
    outer: _Linear
    is_usual: bool


def _linear(facts: GraphFacts, position: int) -> _Linear | None:
    """Return the linear layer or convolution that an operation is; None for another operation."""
    if position < 0 or facts.nodes[position].operation not in ("Addmm", "Mm", "Convolution"):
        return None
    node = facts.nodes[position]
    is_convolution = node.operation == "Convolution"
    if len(node.inputs) < 2:
        return None
    place = node.inputs[1] if is_convolution else node.inputs[-1]
    weight = facts.nodes[facts.source(place)] if place >= 0 else None
    if weight is None or weight.parameter is None or weight.shape is None or len(weight.shape) < 2:
        return None
    if len(weight.shape) != 2 and not is_convolution:
        return None
    outputs, inputs, *kernel = weight.shape
    data = node.inputs[0] if is_convolution else node.inputs[-2]
    return _Linear(data, weight.parameter, inputs, outputs, tuple(kernel))


def _affine_source(facts: GraphFacts, position: int) -> int:
    """Follow changes of shape, scale and BatchNorm; return the position of the operation that computes."""
    position = facts.source(position, linear=True)
    while position >= 0 and facts.nodes[position].operation in _BATCH_NORMS:
        position = facts.source(facts.nodes[position].inputs[0], linear=True)
    return position


def _is_dense(facts: GraphFacts, outer: _Linear, inner: _Linear) -> bool:
    """Return whether neither of the layers works in groups: each combines all channels that it gets."""
    shape = facts.nodes[inner.data].shape if inner.data >= 0 and inner.kernel else None
    if (
        shape is not None
        and len(shape) > len(inner.kernel)
        and shape[-1 - len(inner.kernel)] != inner.inputs
    ):
        return False
    is_flattened = bool(inner.kernel) and not outer.kernel
    return (outer.inputs % inner.outputs if is_flattened else outer.inputs - inner.outputs) == 0


def _is_usual(facts: GraphFacts, inner: _Linear, outer: _Linear) -> bool:
    """Return whether programs do this on purpose."""
    is_projection = any(1 in each.kernel for each in (inner, outer))
    norm = facts.nodes[position] if (position := facts.source(outer.data, linear=True)) >= 0 else None
    has_weights = norm is None or any(each >= 0 for each in norm.inputs[1:])
    is_end = norm is not None and norm.operation in _BATCH_NORMS and not has_weights
    is_attention = any(_ATTENTION.search(each.weight) for each in (inner, outer))
    return is_projection or is_end or is_attention


def _only_user(facts: GraphFacts, consumers: Consumers, position: int) -> int | None:
    """Return the operation that uses a result, after views and multiplications by a constant; None if several do."""
    while True:
        users = consumers[position]
        if len(users) != 1:
            return None
        user = users[0]
        is_norm = facts.nodes[user].operation in _BATCH_NORMS
        if not facts.keeps_values(user, linear=True) and not is_norm:
            return user
        position = user


def _is_added(facts: GraphFacts, consumers: Consumers, position: int) -> bool:
    """Return whether a result is added to another one that is not a parameter, such as a bias."""
    user = _only_user(facts, consumers, position)
    if user is None or facts.nodes[user].operation != "Add":
        return False
    sources = [facts.source(each) for each in facts.nodes[user].inputs]
    return not any(each >= 0 and facts.nodes[each].parameter for each in sources)


def _activation(facts: GraphFacts, position: int) -> tuple[str, ...]:
    """Return the names of the activation's module, if the model has one of that type, and the layer before."""
    node: GraphNode = facts.nodes[position]
    modules = facts.activations.get(node.operation, ())
    layer = facts.layer_of(position)
    return tuple(dict.fromkeys([*modules[-1:], *([] if layer is None else [layer])]))


def _after(layers: tuple[str, ...]) -> str:
    return f" (at `{layers[0]}`)" if layers and layers[0] else ""
