"""Gradients that are inexact by design: finite differences and Monte Carlo, with their error graded.

gradcheck must fail for these. `gradscope doctor approximate.py --approximate` measures the error:
under 1e-3 of the gradient is good, under 1e-2 noticeable, else poor.
"""

import torch
from torch.autograd import Function

import gradscope


class BlackBox(Function):
    """y = x sin(x) of a program that cannot be differentiated; dx by central differences of step h."""

    @staticmethod
    def value(x):
        return torch.sin(x) * x

    @staticmethod
    def forward(ctx, x, h=1e-4):
        ctx.save_for_backward(x)
        ctx.h = h
        return BlackBox.value(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        slope = (BlackBox.value(x + ctx.h) - BlackBox.value(x - ctx.h)) / (2 * ctx.h)
        return (slope * dy, None)[: len(ctx.needs_input_grad)]


class Smoothed(Function):
    """y = x³; dx from random directions of length s (Salimans et al., 2017), antithetic pairs.

    E[u (f(x + su) - f(x - su))] / 2s = f'(x) + s² f'''(x) / 2, with an error of about 1/√samples.
    """

    @staticmethod
    def forward(ctx, x, samples=4000, s=0.01):
        ctx.save_for_backward(x)
        ctx.samples, ctx.s = samples, s
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        u = torch.randn(ctx.samples, *x.shape, dtype=x.dtype)
        rise = (x + ctx.s * u) ** 3 - (x - ctx.s * u) ** 3
        return ((u * rise).mean(0) / (2 * ctx.s) * dy, None, None)[: len(ctx.needs_input_grad)]


def example_inputs():
    """Return what the doctor examines each Function on."""
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    return {"BlackBox": (x, 1e-4), "Smoothed": (x, 40_000, 0.01)}


if __name__ == "__main__":
    x = example_inputs()["BlackBox"][0]
    for step in (1e-4, 0.05, 0.3):
        report = gradscope.examine(BlackBox, x, step, approximate=True)
        graded = [f.message for f in report.findings] or [n for n in report.notes if "good" in n]
        print(f"differences of step {step}:", graded[0])
    for samples in (100, 10_000):
        report = gradscope.examine(Smoothed, x, samples, 0.01, approximate=True)
        print(
            f"{samples} samples:",
            report.findings[0].message,
            "-",
            report.findings[0].evidence["spread"],
        )
