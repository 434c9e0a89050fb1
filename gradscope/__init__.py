"""gradscope: a live debugger for training neural networks in PyTorch.

One line in a training script, `gradscope.attach(model)`, and a terminal shows each layer's activations,
gradients and updates while it trains, and changes its gradients there and then.

Names load what they need when they are first used: `import gradscope` loads neither torch, nor zmq,
nor a user interface.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradscope._version import __version__

_HOME = {
    "Ack": "gradscope.protocol",
    "Alert": "gradscope.rules",
    "Client": "gradscope.client",
    "Intervention": "gradscope.agent",
    "Report": "gradscope.doctor",
    "Scope": "gradscope.agent",
    "Stats": "gradscope.columns",
    "Table": "gradscope.columns",
    "attach": "gradscope.agent",
    "connect": "gradscope.client",
    "doctor": "gradscope.doctor",
    "errors": "gradscope.errors",
    "examine": "gradscope.doctor",
    "functional": "gradscope.functional",
    "nn": "gradscope.nn",
    "open_recording": "gradscope.recording",
    "Ramp": "gradscope.protocol",
    "register_intervention": "gradscope.agent",
    "scopes": "gradscope.agent",
    "time_function": "gradscope.doctor",
}

__all__ = [
    "Ack",
    "Alert",
    "Client",
    "Intervention",
    "Ramp",
    "Report",
    "Scope",
    "Stats",
    "Table",
    "__version__",
    "attach",
    "connect",
    "doctor",
    "errors",
    "examine",
    "functional",
    "nn",
    "open_recording",
    "register_intervention",
    "scopes",
    "time_function",
]

if TYPE_CHECKING:
    from gradscope import doctor, errors, functional, nn
    from gradscope.agent import Intervention, Scope, attach, register_intervention, scopes
    from gradscope.client import Client, connect
    from gradscope.columns import Stats, Table
    from gradscope.doctor import Report, examine, time_function
    from gradscope.protocol import Ack, Ramp
    from gradscope.recording import open_recording
    from gradscope.rules import Alert

_NEEDS_TORCH = frozenset(
    name
    for name, home in _HOME.items()
    if home.rpartition(".")[2] in ("agent", "doctor", "functional", "nn")
)


def __getattr__(name: str) -> Any:  # Any: the type is in the block above
    if name not in _HOME:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}")
    home = _HOME[name]
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        if name in _NEEDS_TORCH and (error.name or "").partition(".")[0] == "torch":
            from gradscope.errors import MissingTorchError  # noqa: PLC0415 - only on this path

            raise MissingTorchError(
                f"gradscope.{name} needs torch, which is not installed here: pip install torch"
            ) from error
        raise
    value = module if home == f"gradscope.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:  # Any: IPython's shell
    """Add `%gradscope` to a notebook; IPython calls this for `%load_ext gradscope`."""
    from gradscope.agent.ipython_extension import register  # noqa: PLC0415 - loads torch

    register(shell)


def __dir__() -> list[str]:
    return list(__all__)
