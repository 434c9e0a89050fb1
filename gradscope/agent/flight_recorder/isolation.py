"""`Isolation`: a module whose forward can run without leaving a trace.

Inside of the context, the module and its submodules hold copies of their parameters, buffers, tensors and plain
containers. Outside of it they hold the very objects that they held before. Random states are put back. Hooks are off,
except those of torch itself, which compute weights (`weight_norm`, pruning).
"""

import collections
import contextlib
import copy
import itertools
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from gradscope.hooks import has_compiled, hidden_from_modes

__all__ = ["Isolation", "RandomState", "copy_of"]

_HOOKS: Final = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS: Final = (
    *(f"_global{name}" for name in _HOOKS),
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
)
_CONTAINERS: Final = (list, tuple, dict, set, collections.OrderedDict, collections.deque)
_STATEFUL: Final = (
    torch.Generator,
    random.Random,
    np.random.Generator,
    np.random.RandomState,
    itertools.count,
)
_DEPTH: Final = 4


class RandomState:
    """The random state of a process: of torch on the CPU and on CUDA devices, of Python and of NumPy.

    has_python: also take the states of Python and NumPy, which takes 0.1 ms.
    """

    __slots__ = ("_cpu", "_cuda", "numpy", "python")

    def __init__(self, *, has_python: bool) -> None:
        self._cpu = torch.default_generator.clone_state()
        self._cuda = _cuda_states()
        self.python: Any = random.getstate() if has_python else None  # Any: as the two libraries say
        self.numpy: Any = np.random.get_state() if has_python else None  # noqa: NPY002 - the state that scripts use

    def put_back(self) -> None:
        """Make this the random state of the process."""
        torch.default_generator.set_state(self._cpu.get_state())
        for device, state in self._cuda if torch.cuda.is_available() else ():
            torch.cuda.default_generators[device].set_state(state)
        if self.python is not None:
            random.setstate(self.python)
            np.random.set_state(self.numpy)  # noqa: NPY002 - as above

    def load(self, states: dict[str, torch.Tensor]) -> None:
        """Load the states of torch's random generators from a result of `tensors`."""
        self._cpu.set_state(states["cpu"])
        self._cuda = [(int(k.removeprefix("cuda:")), t) for k, t in states.items() if k != "cpu"]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the states of torch's random generators, by device."""
        return {"cpu": self._cpu.get_state()} | {f"cuda:{i}": state for i, state in self._cuda}


def _cuda_states() -> list[tuple[int, torch.Tensor]]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch does not annotate it
        return []
    return [(i, each.get_state()) for i, each in enumerate(torch.cuda.default_generators)]


class Isolation:
    """The copies of one module's state. `parameters` and `buffers` are the copies, by name.

    Raises RuntimeError for a module in TorchScript, whose state cannot be replaced.
    """

    def __init__(self, module: nn.Module) -> None:
        if any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
            raise RuntimeError("a part of the model is in TorchScript")
        self._module = module
        self._copies: dict[int, torch.Tensor] = {}
        self._kept: list[tuple[nn.Module, dict[str, Any]]] = []  # Any: whatever a module holds
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, torch.Tensor] = {}

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Replace the state, and put it back."""
        state = RandomState(has_python=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(hidden_from_modes())
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(_without_global_hooks())
            if has_compiled():
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(state.put_back)
            stack.callback(self._put_back)
            self._replace()
            yield

    def _replace(self) -> None:
        for each in self._module.modules():
            held = each.__dict__
            self._kept.append((each, dict(held)))
            held.pop("_compiled_call_impl", None)
            for name in _HOOKS:
                held[name] = _hooks_of_torch(held[name])
            for name, value in list(held.items()):
                if name not in _HOOKS and name != "_modules":
                    held[name] = copy_of(value, self._copies)
        self.parameters = dict(self._module.named_parameters())
        self.buffers = dict(self._module.named_buffers())

    def _put_back(self) -> None:
        while self._kept:
            module, held = self._kept.pop()
            module.__dict__.clear()
            module.__dict__.update(held)
        self._copies.clear()


@contextlib.contextmanager
def _without_global_hooks() -> Iterator[None]:
    tables = [getattr(torch_module, name) for name in _GLOBAL_HOOKS]
    kept = [table.copy() for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, before in zip(tables, kept, strict=True):
            table.clear()
            table.update(before)


def _hooks_of_torch(hooks: dict[int, Callable[..., Any]]) -> dict[int, Callable[..., Any]]:
    kept = [(key, hook) for key, hook in hooks.items() if _is_of_torch(hook)]
    return collections.OrderedDict(kept)


def _is_of_torch(hook: object) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.startswith("torch.nn.")


def copy_of(value: Any, copies: dict[int, torch.Tensor], depth: int = 0) -> Any:  # Any: see above
    """Return a value with its tensors cloned, in copies of plain containers. Other objects stay the same.

    copies: the clones made so far, by the id of the original, which must stay alive.
    """
    if isinstance(value, torch.Tensor):
        if id(value) not in copies:
            copies[id(value)] = _clone(value)
        return copies[id(value)]
    if isinstance(value, _STATEFUL):
        return value.clone_state() if isinstance(value, torch.Generator) else copy.deepcopy(value)
    if type(value) not in _CONTAINERS or depth == _DEPTH:
        return value
    if isinstance(value, dict):
        return type(value)((key, copy_of(item, copies, depth + 1)) for key, item in value.items())
    items = [copy_of(item, copies, depth + 1) for item in value]
    return (
        collections.deque(items, value.maxlen)
        if isinstance(value, collections.deque)
        else type(value)(items)
    )


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    clone = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(clone, requires_grad=tensor.requires_grad)
    return clone.requires_grad_(tensor.requires_grad)
