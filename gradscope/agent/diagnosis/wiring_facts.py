"""Gathers `WiringFacts` from a model and its optimizers. Reads no tensor itself and waits for no device."""

import dataclasses
import gc
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.agent.diagnosis.copies_probe import CopiesProbe
from gradscope.agent.diagnosis.forward_probe import ForwardProbe
from gradscope.agent.step.unregistered import unregistered_parameters
from gradscope.columns import Block
from gradscope.findings.facts import LayerFacts, OptimizerFacts, ParameterFacts, WiringFacts
from gradscope.hooks import parameters_of

__all__ = [
    "OutputCounts",
    "gather",
    "gather_copies",
    "optimizers_in_process",
    "output_counts",
    "tied_names",
    "with_outputs",
]

OutputCounts = Mapping[str, float]
"""For each layer that ran, the mean number of elements of its output per call."""


def gather(
    model: nn.Module,
    step: int,
    optimizers: Sequence[Optimizer],
    *,
    stepped: Collection[int],
    fed: Collection[int],
    with_gradient: Collection[int],
    left_gradients: Mapping[str, bool],
    tied: tuple[tuple[str, ...], ...] = (),
    clipped_at_scale: float | None = None,
    forward: ForwardProbe | None = None,
    unwritten: Collection[int] = (),
) -> WiringFacts:
    """Return the facts of a step.

    stepped: ids of the optimizers that stepped; fed: of the optimizers that found a gradient. with_gradient: ids of
        the parameters for which an optimizer found a gradient. left_gradients: by the name of a parameter.
        tied: the names that shared a tensor at attach. clipped_at_scale: as in the facts. forward: what the
        forward passes of the step showed. unwritten: ids of the optimizers whose copies are not written back.
    """
    registered = list(model.named_parameters(remove_duplicate=False))
    named = [*registered, *unregistered_parameters(model).items()]
    holders = _holders(optimizers)
    mine = {id(parameter) for _, parameter in named}
    return WiringFacts(
        step=step,
        is_training=model.training,
        parameters=tuple(
            ParameterFacts(
                name=name,
                layer=name.rpartition(".")[0],
                key=id(parameter),
                shape=() if is_lazy(parameter) else tuple(parameter.shape),
                is_trainable=parameter.requires_grad,
                has_gradient=id(parameter) in with_gradient,
                optimizers=tuple(holders.get(id(parameter), ())),
                left_gradient=left_gradients.get(name),
                is_registered=number < len(registered),
            )
            for number, (name, parameter) in enumerate(named)
        ),
        layers=tuple(_layer(name, module, forward) for name, module in model.named_modules()),
        optimizers=tuple(
            OptimizerFacts(
                type=type(optimizer).__name__,
                has_stepped=id(optimizer) in stepped,
                held=len(held),
                foreign_shapes=tuple(tuple(each.shape) for each in held if id(each) not in mine),
                has_gradient=id(optimizer) in fed,
                is_unwritten=id(optimizer) in unwritten,
            )
            for optimizer in optimizers
            for held in [parameters_of(optimizer)]
        ),
        tied_at_attach=tied,
        clipped_at_scale=clipped_at_scale,
    )


def _holders(optimizers: Sequence[Optimizer]) -> dict[int, list[int]]:
    """Return, by the id of a parameter, the positions of the optimizers that hold it."""
    holders: dict[int, list[int]] = defaultdict(list)
    groups: list[object] = []
    for position, optimizer in enumerate(optimizers):
        if any(optimizer.param_groups is each for each in groups):
            continue  # it wraps another optimizer and shares its groups
        groups.append(optimizer.param_groups)
        for parameter in parameters_of(optimizer):
            holders[id(parameter)].append(position)
    return holders


def tied_names(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names that share one parameter."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def optimizers_in_process(model: nn.Module) -> list[Optimizer]:
    """Return the optimizers of this process that hold a parameter of the model, stepped or not.

    Walks all objects that Python's garbage collector knows, which takes some 10 ms. Call it only to
    confirm a suspicion.
    """
    mine = {id(parameter) for parameter in model.parameters()}
    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), Optimizer) and any(id(p) in mine for p in parameters_of(each))
    ]


def gather_copies(model: nn.Module, step: int, copies: CopiesProbe) -> WiringFacts:
    """Return facts with the optimizers of this process that hold no parameter of the model.

    For a model of which no step ends. Walks all objects, as `optimizers_in_process` does.
    """
    mine = {id(parameter) for parameter in model.parameters()}
    found = [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]
    strangers = [each for each in found if not mine.intersection(map(id, parameters_of(each)))]
    return gather(
        model,
        step,
        strangers,
        stepped=(),
        fed={id(each) for each in strangers if any(p.grad is not None for p in parameters_of(each))},
        with_gradient={id(p) for p in model.parameters() if p.grad is not None},
        left_gradients={},
        unwritten=copies.unwritten(model, strangers),
    )


def output_counts(names: Sequence[str], block: Block) -> OutputCounts:
    """Return the mean number of output elements per call, for each layer with a measured output."""
    kinds = [i for i, kind in enumerate(block.kinds) if kind.partition(".")[0] == "out"]
    rows = np.flatnonzero(np.isin(block.kind, kinds))
    calls, count = block.column("calls"), block.column("count")
    counts: dict[str, float] = {}
    for row in rows:
        if calls[row] > 0:
            counts.setdefault(names[int(block.layer[row])], float(count[row] / calls[row]))
    return counts


def with_outputs(facts: WiringFacts, counts: OutputCounts, watched: Iterable[str]) -> WiringFacts:
    """Return the facts with what an observed step adds: which watched layers ran, and on how many values."""
    seen = set(watched)
    return dataclasses.replace(
        facts,
        layers=tuple(
            dataclasses.replace(
                layer,
                has_run=layer.name in counts if layer.name in seen else None,
                values_per_channel=counts[layer.name] / layer.channels
                if layer.channels and layer.name in counts
                else None,
            )
            for layer in facts.layers
        ),
    )


def _layer(name: str, module: nn.Module, forward: ForwardProbe | None) -> LayerFacts:
    batch_norm = module if isinstance(module, _BatchNorm) else None
    dropout = _dropout_of(module)
    return LayerFacts(
        name=name,
        type=type(module).__name__,
        is_training=module.training,
        depends_on_mode=bool(dropout) or (batch_norm is not None and batch_norm.track_running_stats),
        dropout=dropout,
        channels=0 if batch_norm is None else batch_norm.num_features,
        form=None if forward is None else forward.form(name),
        first_form=None if forward is None else forward.first_form(name),
        has_run_without_graph=None if forward is None else forward.has_run_without_graph(name),
    )


def _dropout_of(module: nn.Module) -> float | None:
    """Return the probability with which a module removes values itself; None if it does not."""
    if isinstance(module, _DropoutNd):
        return float(module.p)
    if isinstance(module, nn.RNNBase):
        return float(module.dropout) if module.num_layers > 1 else None
    return float(module.dropout) if isinstance(module, nn.MultiheadAttention) else None
