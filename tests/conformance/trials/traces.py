"""What a run may leave behind: on a model, and in torch's global state."""

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

__all__ = ["global_state", "structure_of"]


def structure_of(model: nn.Module) -> list[tuple[object, ...]]:
    """Return classes, attribute names and hook counts of all modules, and hooks on parameters."""
    modules = [
        (name, _class_name(module), tuple(sorted(module.__dict__)), _hook_counts(module))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    parameters = [
        (name, _class_name(p), len(p._backward_hooks or ()), tuple(sorted(p.__dict__)))
        for name, p in model.named_parameters(remove_duplicate=False)
    ]
    return [*modules, *parameters]


def _class_name(thing: object) -> str:
    """Return a class's full name: some are created again in each run."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _hook_counts(module: nn.Module) -> tuple[tuple[str, int], ...]:
    return tuple(
        (key, len(value)) for key, value in sorted(module.__dict__.items())
        if key.endswith("_hooks") and value is not None
    )  # fmt: skip


def global_state() -> dict[str, object]:
    """Return torch's process-wide hooks, modes and settings, countable or comparable."""
    hooks = {
        f"{owner.__name__}.{name}": len(value)
        for owner in (torch_module, torch_optimizer)
        for name, value in vars(owner).items()
        if name.startswith("_global") and "hooks" in name and hasattr(value, "__len__")
    }
    return hooks | {
        "has full backward hooks": torch_module._global_is_full_backward_hook,
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "saved tensor hooks": torch._C._autograd._top_saved_tensors_default_hooks(True) is not None,
        "gradients enabled": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }
