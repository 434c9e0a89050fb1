"""Which custom Functions a run really uses, and what its model is called with: noted in one step.

In that step one more hook is there, which looks at the inputs and at the graph behind the output. It
changes nothing: nodes are read, never unpacked, and no random number is drawn. Inputs are copied only
where there is a Function to be examined, and only so many bytes; beyond that they are known as long as
the training itself keeps them.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import _pytree
from torch.utils.hooks import RemovableHandle

from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import has_compiled, hidden_from_modes

__all__ = ["FunctionTracker", "TrackedFunctions"]

_MOST_KEPT_BYTES: Final = 16 * 2**20
_Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # Any: whatever a model is called with


@dataclass(slots=True)
class TrackedFunctions:
    """What was met in one step. `outside`: Functions that only the loss uses, outside of the model."""

    step: int
    inside: tuple[type[Function], ...] = ()
    outside: tuple[type[Function], ...] = ()
    arguments: Callable[[], _Arguments] | None = None
    """Gives what the model was called with; raises UsageError where that is gone."""


class FunctionTracker(StepPlugin):
    """Looks at the second step that is observed, and at the next one whenever it is asked to.

    Not at the first: what is compiled in it would be traced with one hook more, and once again without.
    """

    name = "noting custom Functions"
    needs_observed = True

    def __init__(self, model: nn.Module, faults: Faults) -> None:
        self._model = weakref.ref(model)
        self._faults = faults
        self._is_first = True
        self._is_wanted = True
        self._noting: TrackedFunctions | None = None
        self._met: TrackedFunctions | None = None
        self._handle: RemovableHandle | None = None

    def ask(self) -> None:
        """Look at the next observed step as well."""
        self._is_wanted = self.needs_observed = True

    def met(self) -> tuple[TrackedFunctions, Callable[[], _Arguments]]:
        """Return the newest step that was looked at, and what gives the model's arguments in it.

        Raises UsageError while there is none.
        """
        noted = self._noting if self._noting is not None and self._noting.arguments else self._met
        if noted is None or noted.arguments is None:
            why = (
                "the model is compiled, which leaves no Function in its graph"
                if has_compiled()
                else "none was looked at yet, which is the second one that is observed"
            )
            raise UsageError(
                f"scope.examine() takes what it met in a step, and {why}; give what the training "
                "passes to the model: scope.examine(batch)"
            )
        return noted, noted.arguments

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Hang the hook in where the step is looked at."""
        is_first, self._is_first = self._is_first, self._is_first and not is_observed
        if self._is_wanted and is_observed and not is_first and not has_compiled():
            self._noting = TrackedFunctions(step)
            self._handle = register_module_forward_hook(self._on_forward, with_kwargs=True)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - a part's
        """Take the hook off, and keep what was noted."""
        self._unhook()
        if self._noting is not None and self._noting.arguments is not None:
            self._met, self._is_wanted = self._noting, False
            self.needs_observed = False
        self._noting = None
        self.rest()

    def close(self) -> None:
        """Take the hook off."""
        self._unhook()
        self._noting = self._met = None

    def see_logged(self, values: Iterable[object]) -> None:
        """Look for Functions behind what the training logs of a step: its loss, as a rule."""
        noting = self._noting
        ends = [v for v in values if isinstance(v, Tensor) and v.grad_fn is not None]
        if noting is not None and ends:
            self._guarded(lambda: self._note_outside(noting, ends))

    def _on_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:  # Any: as torch says
        if torch.compiler.is_compiling():
            return
        noting = self._noting
        if module is self._model() and noting is not None and noting.arguments is None:
            self._guarded(lambda: self._note_inside(noting, args, kwargs, output))

    def _note_inside(
        self, noting: TrackedFunctions, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:  # Any: as above
        tensors = [t for t in _pytree.tree_leaves(output) if isinstance(t, Tensor)]
        noting.inside = _functions_behind(tensors)
        noting.arguments = _remembered(args, kwargs, is_kept=bool(noting.inside))

    def _note_outside(self, noting: TrackedFunctions, ends: list[Tensor]) -> None:
        known = {*noting.inside, *noting.outside}
        others = (f for f in _functions_behind(ends) if f.__module__.partition(".")[0] != "gradscope")
        noting.outside += tuple(f for f in others if f not in known)  # ours are interventions

    def _unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            # torch leaves its id among those that want keywords, which slows every call.
            torch_module._global_forward_hooks_with_kwargs.pop(self._handle.id, None)  # noqa: SLF001 - as said
            self._handle = None

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            with hidden_from_modes(), torch.no_grad():
                work()
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._unhook()
            self._noting, self._is_wanted = None, False
            self._faults.report(self.name, error, "scope.examine needs inputs; training goes on.")


def _functions_behind(tensors: Iterable[Tensor]) -> tuple[type[Function], ...]:
    """Return the users' Functions in a graph, each once. torch's own are left out."""
    found: dict[type[Function], None] = {}
    seen: set[Any] = set()  # Any: torch gives nodes no common type
    waiting = [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        owner = getattr(type(node), "_forward_cls", None)
        if owner is not None and owner.__module__.partition(".")[0] != "torch":
            found[owner] = None
        waiting.extend(parent for parent, _ in node.next_functions)
    return tuple(found)


def _remembered(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_kept: bool
) -> Callable[[], _Arguments]:
    """Return what gives the arguments: copies of them where they are to be kept, and small enough."""
    leaves, structure = _pytree.tree_flatten((args, dict(kwargs)))
    size = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
    is_copied = is_kept and size <= _MOST_KEPT_BYTES
    held = [_holder(leaf, is_copied=is_copied) for leaf in leaves]

    def arguments() -> _Arguments:
        values = [hold() for hold in held]
        if any(isinstance(leaf, _Gone) for leaf in values):
            raise UsageError(
                f"what the model was called with is gone: {size / 2**20:.0f} MiB, of which no copy is "
                "kept (up to 16 MiB are); give a batch, as the training does: scope.examine(batch)"
            )
        found: _Arguments = _pytree.tree_unflatten(values, structure)
        return found

    return arguments


class _Gone:
    """Stands for a tensor that the training has dropped."""


def _holder(leaf: object, *, is_copied: bool) -> Callable[[], object]:
    if not isinstance(leaf, Tensor):
        return lambda: leaf
    if is_copied:
        copy = leaf.detach().clone().requires_grad_(leaf.requires_grad)
        return lambda: copy
    reference = weakref.ref(leaf)
    return lambda: _Gone() if (alive := reference()) is None else alive
