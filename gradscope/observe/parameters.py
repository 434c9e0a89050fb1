"""Parameters, their gradients and what the optimizer did to them, measured around its step."""

from collections.abc import Sequence

import torch
from torch import nn

from gradscope.hooks import LayerInfo
from gradscope.observe.board import Board

__all__ = ["ParameterObserver"]


class ParameterObserver:
    """Measures `param` and `param_grad` before an optimizer steps, and `update` after.

    Each parameter has a row of its own (`param_grad.weight`), and one that it shares with the layer's
    others (`param_grad`). `before` keeps one copy of the parameters that have a gradient until `after`.
    """

    def __init__(self, board: Board, layers: Sequence[LayerInfo]) -> None:
        self._board = board
        self._rows: dict[int, list[tuple[int, str]]] = {}
        for layer in layers:
            if layer.is_watched:
                for name, parameter in layer.parameters.items():
                    self._rows.setdefault(id(parameter), []).append((layer.index, name))
        self._copies: list[tuple[nn.Parameter, torch.Tensor]] = []

    def before(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure values and gradients, and keep copies of what the optimizer may change."""
        known = [p for p in parameters if id(p) in self._rows and p.grad is not None]
        self.measure_values(parameters)
        self.measure_gradients(known)
        self.keep(known)

    def before_closure(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure values and keep copies; gradients follow, as a closure computes them."""
        self.measure_values(parameters)
        self.keep(parameters)

    def measure_values(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure `param`."""
        for parameter in parameters:
            if id(parameter) in self._rows:
                self._measure("param", parameter, parameter)

    def measure_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure `param_grad` of those that have one."""
        for parameter in parameters:
            if id(parameter) in self._rows and parameter.grad is not None:
                self._measure("param_grad", parameter, parameter.grad)

    def keep(self, parameters: Sequence[nn.Parameter]) -> None:
        """Keep copies of parameters until `after`."""
        for parameter in parameters:
            if id(parameter) in self._rows and parameter.requires_grad:
                self._copies.append((parameter, _local(parameter).clone()))

    def after(self) -> None:
        """Measure the change since `before`: Δw, in float32 at least."""
        for parameter, old in self._copies:
            new = _local(parameter)
            if old.dtype in (torch.float16, torch.bfloat16):
                change = new.float() - old.float()
            else:
                change = new - old
            self._measure("update", parameter, change)
        self._copies.clear()

    def forget(self) -> None:
        """Let go of the copies of a step that never came to its end."""
        self._copies.clear()

    def _measure(self, kind: str, parameter: nn.Parameter, tensor: torch.Tensor) -> None:
        row = self._board.row
        rows = [
            each
            for layer, name in self._rows[id(parameter)]
            for each in (row(layer, kind), row(layer, f"{kind}.{name}"))
        ]
        self._board.add(rows[0], tensor, *rows[1:])


def _local(parameter: nn.Parameter) -> torch.Tensor:
    """Return the part of a parameter that lies on this rank, without its graph."""
    to_local = getattr(parameter, "to_local", None)
    local: torch.Tensor = parameter.detach() if to_local is None else to_local().detach()
    return local
