"""A hook on the gradient of one tensor, and whether a forward is a recomputation."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import checkpoint
from torch.utils.hooks import RemovableHandle

_CHECKPOINT_FILE = checkpoint.__file__
_RUNS_FORWARD_AGAIN = {"unpack_hook": True, "backward": False}
"""torch's functions that run a checkpoint's forward again, and whether the original had run with gradients."""

_OURS = -1
"""The key of gradscope's hook in a tensor's hooks. torch numbers its own from 0."""

__all__ = ["GradientHook", "is_in_backward", "is_recomputing", "watch_gradient"]


def is_in_backward() -> bool:
    """Return whether this thread is in a backward pass."""
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch has no public name for it


def is_recomputing() -> bool:
    """Return whether this forward is a recomputation whose original was already observed with its gradients.

    Activation checkpointing runs a forward again inside the backward pass. Reentrant checkpointing ran the
    original without gradients, so the recomputation is the one to observe. Non-reentrant checkpointing ran the
    original with gradients and recomputes only saved tensors; it is detected by its saved-tensor hooks, or, if
    other hooks are above these (a checkpoint inside the checkpoint, `save_on_cpu`, the user's), by its frame.
    """
    if not is_in_backward():
        return False
    top: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)  # noqa: SLF001 - torch has no public name for it
    if top is None:
        return False
    return "recomputation_hook" in getattr(top[0], "__qualname__", "") or _is_inside_recomputation()


def _is_inside_recomputation() -> bool:
    """Return whether the innermost checkpoint that runs this forward again is of the non-reentrant kind."""
    frame = sys._getframe()  # noqa: SLF001 - only with saved-tensor hooks inside a backward pass
    while frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        if code.co_filename == _CHECKPOINT_FILE and code.co_name in _RUNS_FORWARD_AGAIN:
            return _RUNS_FORWARD_AGAIN[code.co_name]
    return False


class GradientHook:
    """Calls `callback(token, gradient)` when the gradient of a tensor is computed; changes nothing.

    It is a class instead of a closure, so that it can be marked as not to be saved with a tensor.
    """

    __slots__ = ("_callback", "_token")
    __torch_unserializable__ = True

    def __init__(
        self, callback: Callable[[Any, torch.Tensor], None], token: Any
    ) -> None:  # Any: the caller's own
        self._callback = callback
        self._token = token

    def __call__(self, gradient: torch.Tensor | None) -> None:
        """Pass the gradient to the callback. The hook returns None, so the gradient does not change.

        `gradient` is None if only another output of the same operation has a gradient.
        """
        if gradient is not None:
            self._callback(self._token, gradient)


def watch_gradient(tensor: torch.Tensor, hook: GradientHook) -> RemovableHandle | None:
    """Install a hook on the gradient of a tensor; return its handle if the caller must remove it.

    A non-leaf tensor drops its hooks together with its graph, so None is returned. A leaf (a module that returns
    its parameter) would keep the hook forever, so its handle is returned.

    For a tensor without hooks, this does the same as `register_hook`, but creates no handle, which would take
    most of the time.
    """
    if type(tensor) is torch.Tensor and tensor._backward_hooks is None:  # noqa: SLF001 - as register_hook
        node = tensor.grad_fn
        if node is not None:
            tensor._backward_hooks = OrderedDict({_OURS: hook})  # noqa: SLF001 - as above
            node._register_hook_dict(tensor)  # noqa: SLF001 - as above
            return None
    handle = tensor.register_hook(hook)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return handle if tensor.is_leaf else None
