"""`Subject`: a Function, a module or a callable as one function of positional arguments."""

import copy
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils import _pytree

from gradscope.doctor.subject.outside_state import seed_generators
from gradscope.errors import UsageError

__all__ = [
    "Examinable",
    "Leaf",
    "Subject",
    "dense",
    "functions_named_in",
    "is_strided",
    "resolve",
    "tensors_of",
]

Examinable: TypeAlias = type[Function] | nn.Module | Callable[..., object]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor argument that can have a gradient. `is_needed`: whether its gradient is examined."""

    position: int
    name: str
    value: Tensor
    is_needed: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """A function of positional arguments, its leaves, and the Function classes that it runs."""

    name: str
    call: Callable[..., object]
    arguments: tuple[object, ...]
    leaves: tuple[Leaf, ...]
    functions: tuple[type[Function], ...]
    module: nn.Module | None = None
    seed: int = 0
    """The random generators are seeded with it before each call."""

    @property
    def input_count(self) -> int:
        """The number of inputs. A module's parameters follow them among the arguments."""
        parameters = list(self.module.parameters()) if self.module is not None else []
        return len(self.arguments) - len(parameters)

    @property
    def is_direct(self) -> bool:
        """Whether the call is a Function's own apply, so that its arguments are forward's arguments."""
        return isinstance(getattr(self.call, "__self__", None), type)

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Call the function with `tensors` as leaves. Return the tensors in the result that can have a gradient."""
        placed = {leaf.position: tensor for leaf, tensor in zip(self.leaves, tensors, strict=True)}
        arguments = [
            placed[i] if i in placed else _copy_argument(argument)
            for i, argument in enumerate(self.arguments)
        ]
        seed_generators(self.seed, tensors)
        return tuple(dense(output) for output in tensors_of(self.call(*arguments)))

    def with_values(self, values: Sequence[Tensor]) -> "Subject":
        """Return a copy of the subject with other values for its leaves."""
        leaves = tuple(replace(l_, value=v) for l_, v in zip(self.leaves, values, strict=True))
        return replace(self, leaves=leaves)

    def in_double(self) -> "Subject":
        """Return a copy of the subject in double precision: leaves, and the parameters and buffers of a module."""
        widened = self.with_values([_in_double_precision(leaf.value) for leaf in self.leaves])
        arguments = (_in_double_precision(a) if _is_sparse_number(a) else a for a in self.arguments)
        widened = replace(widened, arguments=tuple(arguments))
        if self.module is None:
            return widened
        module = copy.deepcopy(self.module).double()
        return replace(widened, module=module, call=_call_of_module(module, self.input_count))


def resolve(function: Examinable, inputs: Sequence[object], name: str | None) -> Subject:
    """Return what the doctor examines, for a Function class, its apply, an nn.Module or any callable.

    Raises UsageError if it is none of these, or if no input is a tensor that can have a gradient.
    """
    call, functions, shown, module = _callable_of(function)
    arguments = tuple(inputs)
    names = _argument_names(function, functions, len(arguments))
    if module is not None:
        parameters = dict(module.named_parameters())
        names, arguments = [*names, *parameters], (*arguments, *parameters.values())
        call = _call_of_module(module, len(inputs))
    leaves = _leaves_among(arguments, names, len(inputs), shown)
    arguments = tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)
    subject = Subject(name or shown, call, arguments, leaves, functions, module)
    return subject if functions else replace(subject, functions=functions_named_in(function))


def tensors_of(result: object) -> tuple[Tensor, ...]:
    """Return the floating-point and complex tensors in a result, at any nesting depth."""
    leaves = _pytree.tree_leaves(result)
    return tuple(
        t for t in leaves if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
    )


def _callable_of(
    function: Examinable,
) -> tuple[Callable[..., object], tuple[type[Function], ...], str, nn.Module | None]:
    if isinstance(function, type) and issubclass(function, Function):
        return function.apply, (function,), function.__name__, None
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Function):
        return owner.apply, (owner,), owner.__name__, None
    if isinstance(function, nn.Module):
        return function, (), type(function).__name__, copy.deepcopy(function)
    if callable(function) and not isinstance(function, type):
        return function, (), getattr(function, "__name__", type(function).__name__), None
    got = function.__name__ if isinstance(function, type) else type(function).__name__
    raise UsageError(
        f"examine expected an autograd Function, its apply, an nn.Module or a callable, got {got}; "
        "pass the class itself (MyFunction) or a function that calls MyFunction.apply"
    )


def _call_of_module(module: nn.Module, inputs: int) -> Callable[..., object]:
    names = [name for name, _ in module.named_parameters()]

    def call(*arguments: object) -> object:
        parameters = dict(zip(names, arguments[inputs:], strict=True))
        called: object = torch.func.functional_call(module, parameters, arguments[:inputs])  # type: ignore[arg-type]  # tensors
        return called

    return call


def _argument_names(
    function: Any, functions: Sequence[type[Function]], count: int
) -> list[str]:  # Any: Examinable
    described: Any = function  # Any: Examinable
    is_with_ctx = False
    if functions:
        described = functions[0].forward
        is_with_ctx = functions[0].setup_context is Function.setup_context
    elif isinstance(function, nn.Module):
        described = function.forward
    try:
        parameters = list(inspect.signature(described).parameters.values())[int(is_with_ctx) :]
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL][:count]
    return names + [f"input {i}" for i in range(len(names), count)]


def _leaves_among(
    arguments: Sequence[object], names: Sequence[str], inputs: int, shown: str
) -> tuple[Leaf, ...]:
    """Return the tensors that can have a gradient. Arguments after `inputs` are parameters of a module."""
    tensors = [
        (i, a)
        for i, a in enumerate(arguments)
        if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex()) and is_strided(a)
    ]
    if not tensors:
        kinds = ", ".join(_describe_argument(argument) for argument in arguments) or "none"
        raise UsageError(
            f"examine({shown}, ...) expected at least one floating-point or complex tensor among its "
            f"inputs, got {kinds}; pass dense example inputs, such as torch.randn(4, 3), or examine a "
            "function that makes a sparse or nested tensor from its values"
        )
    is_any = any(tensor.requires_grad for i, tensor in tensors if i < inputs)
    return tuple(
        Leaf(i, names[i], tensor.detach(), tensor.requires_grad or (i < inputs and not is_any))
        for i, tensor in tensors
    )


def is_strided(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, and neither nested nor without values."""
    return tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_meta)


def _describe_argument(argument: object) -> str:
    if isinstance(argument, Tensor):
        layout = "" if is_strided(argument) else f"{argument.layout} "
        return f"a {layout}tensor of {argument.dtype}".replace("torch.", "")
    return type(argument).__name__


def functions_named_in(function: Any) -> tuple[type[Function], ...]:  # Any: Examinable
    """Return the Function classes that a plain function refers to, even if calling the function raises."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ()
    known = dict(getattr(function, "__globals__", {}))
    known.update(inspect.getclosurevars(function).nonlocals)
    values = [known.get(name) for name in (*code.co_names, *code.co_freevars)]
    return tuple(
        v for v in values if isinstance(v, type) and issubclass(v, Function) and v is not Function
    )


def _copy_argument(argument: Any) -> Any:  # Any: any argument
    """Return an argument that is not a leaf, with copies of tensors and generators, which the function may modify."""
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    if isinstance(argument, torch.Generator):
        return argument.clone_state()
    if isinstance(argument, np.random.Generator | random.Random):
        return copy.deepcopy(argument)
    return _pytree.tree_map_only(Tensor, torch.clone, argument)


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor as a strided one, also if it is sparse."""
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _is_sparse_number(argument: Any) -> bool:  # Any: any argument
    return isinstance(argument, Tensor) and argument.is_floating_point() and not is_strided(argument)


def _in_double_precision(value: Any) -> Any:  # Any: a tensor
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
