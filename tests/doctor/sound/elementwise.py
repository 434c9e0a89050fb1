"""Right derivatives of published elementwise formulas: each row is a name, a value and a slope."""

import math

import torch
from torch import exp, sigmoid, tanh
from torch.autograd import Function
from torch.nn.functional import softplus

ROWS = {
    # name: (value, slope, smallest x, largest x)
    "reciprocal square, Newton": (lambda x: x**-2, lambda x: -2 * x**-3, 0.4, 3.0),
    "Gaussian": (lambda x: exp(-x * x), lambda x: -2 * x * exp(-x * x), -2.0, 2.1),
    "sinc": (lambda x: torch.sin(x) / x, lambda x: torch.cos(x) / x - torch.sin(x) / x**2, 0.2, 5.0),
    "snake, Ziyin 2020": (lambda x: x + torch.sin(x) ** 2, lambda x: 1 + torch.sin(2 * x), -3.0, 3.1),
    "ELiSH, Basirat 2018": (
        lambda x: torch.where(x >= 0, x, exp(x) - 1) * sigmoid(x),
        lambda x: (
            torch.where(x >= 0, torch.ones_like(x), exp(x)) * sigmoid(x)
            + torch.where(x >= 0, x, exp(x) - 1) * sigmoid(x) * (1 - sigmoid(x))
        ),
        -3.0,
        3.1,
    ),
    "SERF, Nag 2021": (
        lambda x: x * torch.erf(softplus(x)),
        lambda x: (
            torch.erf(softplus(x)) + x * 2 / math.sqrt(math.pi) * exp(-(softplus(x) ** 2)) * sigmoid(x)
        ),
        -3.0,
        3.1,
    ),
    "TanhExp, Liu 2020": (
        lambda x: x * tanh(exp(x)),
        lambda x: tanh(exp(x)) + x * exp(x) * (1 - tanh(exp(x)) ** 2),
        -3.0,
        2.1,
    ),
    "logish, Zhu 2021": (
        lambda x: x * torch.log1p(sigmoid(x)),
        lambda x: torch.log1p(sigmoid(x)) + x * sigmoid(x) * (1 - sigmoid(x)) / (1 + sigmoid(x)),
        -3.0,
        3.1,
    ),
    "squared ReLU, So 2021": (lambda x: x.clamp(min=0) ** 2, lambda x: 2 * x.clamp(min=0), -3.0, 3.1),
    "hard tanh": (lambda x: x.clamp(-1, 1), lambda x: ((x > -1) & (x < 1)).to(x.dtype), -3.03, 3.1),
    "triangle wave": (
        lambda x: (x - torch.round(x)).abs(),
        lambda x: torch.sign(x - torch.round(x)),
        -2.03,
        2.2,
    ),
    "Cauchy loss": (lambda x: torch.log1p(x * x / 2), lambda x: x / (1 + x * x / 2), -4.0, 4.3),
    "Geman-McClure loss": (
        lambda x: 2 * x * x / (x * x + 4),
        lambda x: 16 * x / (x * x + 4) ** 2,
        -4.0,
        4.3,
    ),
    "log cosh loss": (lambda x: x + softplus(-2 * x) - math.log(2), tanh, -4.0, 4.3),
    "symmetric log, Hafner 2023": (
        lambda x: torch.sign(x) * torch.log1p(x.abs()),
        lambda x: 1 / (1 + x.abs()),
        -4.0,
        4.3,
    ),
    "mu-law, G.711": (
        lambda x: torch.sign(x) * torch.log1p(255 * x.abs()) / math.log(256),
        lambda x: 255 / (1 + 255 * x.abs()) / math.log(256),
        -0.95,
        0.9,
    ),
    "Planck, up to a factor": (
        lambda x: x**3 / torch.expm1(x),
        lambda x: 3 * x**2 / torch.expm1(x) - x**3 * exp(x) / torch.expm1(x) ** 2,
        0.3,
        6.0,
    ),
    "Lennard-Jones": (lambda r: r**-12 - 2 * r**-6, lambda r: -12 * r**-13 + 12 * r**-7, 0.9, 2.0),
    "Morse": (
        lambda r: (1 - exp(-(r - 1))) ** 2,
        lambda r: 2 * exp(-(r - 1)) * (1 - exp(-(r - 1))),
        0.3,
        3.0,
    ),
    "Michaelis-Menten": (lambda s: 3 * s / (0.5 + s), lambda s: 1.5 / (0.5 + s) ** 2, 0.1, 5.0),
}


def _function(value, slope):
    class Elementwise(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return value(x)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return slope(x) * dy

    return Elementwise


SOUND = {
    name: (_function(value, slope), (torch.linspace(low, high, 12).reshape(3, 4),), {})
    for name, (value, slope, low, high) in ROWS.items()
}
