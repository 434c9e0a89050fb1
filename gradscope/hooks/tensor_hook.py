"""A hook on the gradient of one tensor, and whether a forward is a recomputation."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

_OURS = -1
"""The key of our hook among those of a tensor; torch numbers its handles from 0."""

__all__ = ["GradientHook", "is_recomputing", "watch_gradient"]


def is_recomputing() -> bool:
    """Whether this forward repeats one that was seen with its gradients: its outputs are not new.

    Checkpointing computes a forward again inside the backward pass. Its reentrant kind ran without
    gradients the first time, so that the second time is the one that counts. The other kind was seen in
    full, and computes again only to fill what was saved; it is known by its saved-tensor hooks.
    """
    if torch._C._current_graph_task_id() == -1:  # noqa: SLF001 - torch has no public name for it
        return False
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)  # noqa: SLF001 - as above
    return top is not None and "recomputation_hook" in getattr(top[0], "__qualname__", "")


class GradientHook:
    """Calls `callback(token, gradient)` when the gradient of a tensor is known; changes nothing.

    A class and not a closure, so that torch can be told that it is nothing to save with a tensor.
    """

    __slots__ = ("_callback", "_token")
    __torch_unserializable__ = True

    def __init__(
        self, callback: Callable[[Any, torch.Tensor], None], token: Any
    ) -> None:  # Any: the caller's own
        self._callback = callback
        self._token = token

    def __call__(self, gradient: torch.Tensor | None) -> None:
        """Pass the gradient on; returning None leaves it as it is.

        It is None itself where only another output of the same operation got a gradient.
        """
        if gradient is not None:
            self._callback(self._token, gradient)


def watch_gradient(tensor: torch.Tensor, hook: GradientHook) -> RemovableHandle | None:
    """Install a hook on the gradient of a tensor.

    A tensor of the graph lets go of its hook when the graph goes, and None is returned. A leaf (a
    module that returns its parameter) would keep it for good: its handle is returned, to be removed.

    For a tensor that has no hook yet this does what `register_hook` does, without making an
    unused handle, which takes most of its time.
    """
    if type(tensor) is torch.Tensor and tensor._backward_hooks is None:  # noqa: SLF001 - as register_hook
        node = tensor.grad_fn
        if node is not None:
            tensor._backward_hooks = OrderedDict({_OURS: hook})  # noqa: SLF001 - as above
            node._register_hook_dict(tensor)  # noqa: SLF001 - as above
            return None
    handle = tensor.register_hook(hook)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return handle if tensor.is_leaf else None
