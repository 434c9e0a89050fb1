"""The measurements by which sick programs prove their fault. Plain PyTorch, without gradscope."""

import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.faults.data import Batch
from benchmarks.faults.program import Parts, Proof, train_step

__all__ = [
    "alike_outputs",
    "at_bounds",
    "error_of",
    "gradient_growth",
    "gradient_norm",
    "gradient_ratio",
    "higher",
    "higher_loss",
    "is_nonfinite",
    "largest_jump",
    "loss_gain",
    "lower",
    "mean_error",
    "mean_of",
    "moved",
    "nonlinearity",
    "update_ratio",
    "weight_norm",
    "without_gradient",
    "zero_share",
]


# Numbers of one training. Each takes the parts and the number of steps, trains, and returns a number.


def _last_loss(parts: Parts, steps: int) -> float:
    losses = [float(train_step(parts, step)) for step in range(steps)]
    return statistics.fmean(losses[-20:])


def _own(parts: Parts, steps: int) -> float:
    for step in range(steps):
        train_step(parts, step)
    if parts.measure is None:
        raise TypeError("this proof needs Parts.measure")
    return parts.measure()


def _nonfinite(parts: Parts, steps: int) -> float:
    """Count the steps in which the loss or a gradient is not finite."""
    bad = 0
    for step in range(steps):
        loss = train_step(parts, step)
        tensors = [loss, *(p.grad for p in parts.model.parameters() if p.grad is not None)]
        bad += not all(bool(each.isfinite().all()) for each in tensors)
    return float(bad)


def _weights(parts: Parts, layer: str) -> list[Tensor]:
    return [p for name, p in parts.model.named_parameters() if name.startswith(layer)]


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(each.detach().double().square().sum()) for each in tensors))


def _gradient_rms(parts: Parts, layer: str) -> float:
    found = [p.grad for p in _weights(parts, layer) if p.grad is not None]
    count = sum(each.numel() for each in found)
    return _norm(found) / math.sqrt(count) if count else 0.0


def _output(parts: Parts, layer: str, steps: int) -> Tensor:
    """Return the output of a layer in the last step."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept[:] = [output.detach().double()]

    handle: RemovableHandle = parts.model.get_submodule(layer).register_forward_hook(keep)
    for step in range(steps):
        train_step(parts, step)
    handle.remove()
    return kept[0]


# Proofs: a number of the sick program and its twin, and what shows the fault.


def higher_loss(factor: float) -> Proof:
    """Return: the loss at the end is `factor` times as high."""
    return Proof("loss at the end", _last_loss, lambda sick, twin: not sick <= factor * twin)


def loss_gain(factor: float) -> Proof:
    """Return: the loss falls to a share of its beginning that is `factor` times larger."""

    def measure(parts: Parts, steps: int) -> float:
        losses = [float(train_step(parts, step)) for step in range(steps)]
        return statistics.fmean(losses[-20:]) / statistics.fmean(losses[:3])

    return Proof(
        "loss at the end, share of the beginning", measure, lambda sick, twin: sick > factor * twin
    )


def higher(what: str, factor: float) -> Proof:
    """Return: the program's own measure is `factor` times as high; NaN counts as high."""
    return Proof(what, _own, lambda sick, twin: not sick <= factor * twin)


def lower(what: str, factor: float) -> Proof:
    """Return: the program's own measure is less than 1/`factor`."""
    return Proof(what, _own, lambda sick, twin: sick * factor < twin)


def is_nonfinite(at_most: int = 0) -> Proof:
    """Return: there are steps with NaN or Inf in loss or gradients, and none (or few) in the twin."""
    return Proof("steps with NaN or Inf", _nonfinite, lambda sick, twin: sick > 0 and twin <= at_most)


def moved(layer: str) -> Proof:
    """Return: the parameters of a layer stay as they were, but not in the twin."""

    def measure(parts: Parts, steps: int) -> float:
        before = [each.detach().clone() for each in _weights(parts, layer)]
        for step in range(steps):
            train_step(parts, step)
        now = _weights(parts, layer)
        return _norm([one.detach() - other for one, other in zip(now, before, strict=True)])

    return Proof(f"change of {layer or 'the model'}", measure, lambda sick, twin: sick == 0 < twin)


def without_gradient(layer: str) -> Proof:
    """Return: no gradient arrives at a layer, but in the twin."""

    def measure(parts: Parts, steps: int) -> float:
        for step in range(steps):
            train_step(parts, step)
        return _gradient_rms(parts, layer)

    return Proof(f"gradient of {layer}", measure, lambda sick, twin: sick == 0 < twin)


def gradient_growth(layer: str, factor: float) -> Proof:
    """Return: the gradient that the optimizer finds at the end is `factor` times that of the twin."""

    def measure(parts: Parts, steps: int) -> float:
        for step in range(steps):
            train_step(parts, step)
        return _gradient_rms(parts, layer)

    return Proof(
        f"gradient of {layer or 'the model'}", measure, lambda sick, twin: sick > factor * twin
    )


def gradient_ratio(layer: str, limit: float) -> Proof:
    """Return: the gradient of a layer is less than `limit` times that of the last layer, and not in the twin."""

    def measure(parts: Parts, _steps: int) -> float:
        for step in range(3):
            train_step(parts, step)
        last = [name for name, _ in parts.model.named_parameters()][-1].rpartition(".")[0]
        return _gradient_rms(parts, layer) / _gradient_rms(parts, f"{last}.")

    return Proof(f"gradient of {layer} / last layer", measure, lambda sick, twin: sick < limit < twin)


def gradient_norm(limit: float) -> Proof:
    """Return: in one of the first ten steps, the norm of all gradients is over `limit`, and not in the twin."""

    def measure(parts: Parts, steps: int) -> float:
        norms = []
        for step in range(min(steps, 10)):
            train_step(parts, step)
            norms.append(_norm([p.grad for p in parts.model.parameters() if p.grad is not None]))
        return max(norms)

    return Proof("norm of the gradients", measure, lambda sick, twin: sick > limit > twin)


def zero_share(layer: str, limit: float = 0.5) -> Proof:
    """Return: more than a share of a layer's units is zero for all samples of the last step."""

    def measure(parts: Parts, steps: int) -> float:
        is_zero = _output(parts, layer, steps) == 0  # (N, units) or (N, channels, height, width)
        return float(
            is_zero.flatten(2).all(2).all(0).double().mean()
            if is_zero.dim() > 2
            else is_zero.all(0).double().mean()
        )

    return Proof(
        f"share of units of {layer} that are zero", measure, lambda sick, twin: sick > limit > twin
    )


def at_bounds(layer: str, bound: float = 0.99) -> Proof:
    """Return: most outputs of an activation within [-1, 1] are at its bounds, and few in the twin."""

    def measure(parts: Parts, steps: int) -> float:
        return float((_output(parts, layer, steps).abs() > bound).double().mean())

    return Proof(f"share of {layer} at its bounds", measure, lambda sick, twin: sick > 0.5 > twin)


def alike_outputs(layer: str, limit: float = 1e-2) -> Proof:
    """Return: the deviation of a layer's output over the batch is below `limit` times its size."""

    def measure(parts: Parts, steps: int) -> float:
        output = _output(parts, layer, steps)
        return float(
            output.std(0).square().mean().sqrt() / output.square().mean().sqrt().clamp_min(1e-300)
        )

    return Proof(
        f"deviation over the batch / size of {layer}", measure, lambda sick, twin: sick < limit < twin
    )


def update_ratio(limit: float, layer: str = "") -> Proof:
    """Return: the median change of a step / size of the weights is beyond `limit`, and not in the twin."""

    def measure(parts: Parts, steps: int) -> float:
        ratios = []
        for step in range(min(steps, 30)):
            before = [each.detach().clone() for each in _weights(parts, layer)]
            train_step(parts, step)
            change = [
                now.detach() - old for now, old in zip(_weights(parts, layer), before, strict=True)
            ]
            ratios.append(_norm(change) / _norm(before))
        return statistics.median(ratios)

    if limit < 1e-3:
        return Proof("change per step / weights", measure, lambda sick, twin: sick < limit < twin)
    return Proof("change per step / weights", measure, lambda sick, twin: sick > limit > twin)


def weight_norm(layer: str, factor: float) -> Proof:
    """Return: the weights of a layer shrink to less than 1/`factor` of those of the twin."""

    def measure(parts: Parts, steps: int) -> float:
        for step in range(steps):
            train_step(parts, step)
        return _norm(_weights(parts, layer))

    return Proof(f"norm of the weights of {layer}", measure, lambda sick, twin: sick * factor < twin)


def largest_jump(factor: float) -> Proof:
    """Return: a loss is `factor` times the median of the ten before it, and not in the twin."""

    def measure(parts: Parts, steps: int) -> float:
        losses = [float(train_step(parts, step)) for step in range(steps)]
        return max(
            abs(losses[i]) / (1e-6 + statistics.median(map(abs, losses[i - 10 : i])))
            for i in range(10, steps)
        )

    return Proof("largest jump of the loss", measure, lambda sick, twin: sick > factor > twin)


# Measures that programs give as Parts.measure.


def error_of(model: nn.Module, data: Callable[[int], Batch]) -> Callable[[], float]:
    """Return the measure: the share of wrong classes in 512 new samples, in eval mode."""

    def measure() -> float:
        x, y = data(512)
        with torch.no_grad():
            return float((model.eval()(x).argmax(1) != y).double().mean())

    return measure


def mean_error(model: nn.Module, data: Callable[[int], Batch]) -> Callable[[], float]:
    """Return the measure: the mean squared error over 512 new samples, in eval mode."""

    def measure() -> float:
        x, y = data(512)
        with torch.no_grad():
            return float((model.eval()(x).reshape(y.shape) - y).double().square().mean())

    return measure


def nonlinearity(part: nn.Module, shape: tuple[int, ...]) -> Callable[[], float]:
    """Return the measure: |f(x + y) - f(x) - f(y) + f(0)| / |f(x) - f(0)|; 0 for a linear f."""

    def measure() -> float:
        x, y = torch.randn(8, *shape), torch.randn(8, *shape)
        with torch.no_grad():
            part.eval()
            zero = part(torch.zeros_like(x))
            return float((part(x + y) - part(x) - part(y) + zero).norm() / (part(x) - zero).norm())

    return measure


def mean_of(values: list[float]) -> Callable[[], float]:
    """Return the measure: the mean of numbers that the program collected in its steps."""
    return lambda: statistics.fmean(values)
