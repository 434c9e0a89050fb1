"""Right Functions of several elements, inputs, outputs and styles."""

import functools

import numpy as np
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def sample(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(8))


class Softmax(Function):
    """dx = y (dy - Σ dy y)."""

    @staticmethod
    def forward(ctx, x):
        y = torch.exp(x - x.amax(-1, keepdim=True))
        y = y / y.sum(-1, keepdim=True)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return y * (dy - (dy * y).sum(-1, keepdim=True))


class RmsNorm(Function):
    """Zhang and Sennrich, 2019."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return w * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        r = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            g = dy * w
            dx = r * (g - x * r * r * (g * x).mean(-1, keepdim=True))
        if ctx.needs_input_grad[1]:
            dw = (dy * x * r).sum_to_size(w.shape)
        return dx, dw


class LayerNorm(Function):
    """Ba et al., 2016, without scale and shift."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        c = x - x.mean(-1, keepdim=True)
        return c * (c.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        c = x - x.mean(-1, keepdim=True)
        r = (c.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        y = c * r
        return r * (dy - dy.mean(-1, keepdim=True) - y * (dy * y).mean(-1, keepdim=True))


class CrossEntropy(Function):
    """Softmax cross-entropy with indices."""

    @staticmethod
    def forward(ctx, x, target):
        ctx.save_for_backward(x, target)
        return (x.logsumexp(-1) - x.gather(-1, target[:, None]).squeeze(-1)).sum()

    @staticmethod
    def backward(ctx, dy):
        x, target = ctx.saved_tensors
        p = x.softmax(-1)
        return (p - torch.nn.functional.one_hot(target, x.shape[-1])) * dy, None


class FocalLoss(Function):
    """Lin et al., 2017, of logits, gamma 2, for positives: -(1 - p)² log p."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return -((1 - torch.sigmoid(x)) ** 2) * torch.nn.functional.logsigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        p, log_p = torch.sigmoid(x), torch.nn.functional.logsigmoid(x)
        return (2 * p * (1 - p) ** 2 * log_p - (1 - p) ** 3) * dy


class Attention(Function):
    """Vaswani et al., 2017: softmax(q kᵀ / √d) v."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    @staticmethod
    def backward(ctx, dy):
        q, k, v = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        p = (q @ k.mT * scale).softmax(-1)
        dq = dk = dv = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            dp = dy @ v.mT
            ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
            dq = ds @ k if ctx.needs_input_grad[0] else None
            dk = ds.mT @ q if ctx.needs_input_grad[1] else None
        if ctx.needs_input_grad[2]:
            dv = p.mT @ dy
        return dq, dk, dv


class Inverse(Function):
    """dx = -yᵀ dy yᵀ."""

    @staticmethod
    def forward(ctx, x):
        y = torch.linalg.inv(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return -y.mT @ dy @ y.mT


class LogDeterminant(Function):
    """dx = x⁻ᵀ dy."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.linalg.slogdet(x)[1]

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return torch.linalg.inv(x).mT * dy[..., None, None]


class Lookup(Function):
    """Rows of a table."""

    @staticmethod
    def forward(ctx, table, rows):
        ctx.save_for_backward(rows)
        ctx.count = table.shape[0]
        return table[rows]

    @staticmethod
    def backward(ctx, dy):
        (rows,) = ctx.saved_tensors
        return dy.new_zeros(ctx.count, dy.shape[-1]).index_add(0, rows, dy), None


class CumulativeSum(Function):
    """Summed from behind in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.cumsum(-1)

    @staticmethod
    def backward(ctx, dy):
        return dy.flip(-1).cumsum(-1).flip(-1)


class CircularConvolution(Function):
    """By FFT: dx is the circular correlation with the kernel."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.save_for_backward(x, k)
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(k), n=x.shape[-1])

    @staticmethod
    def backward(ctx, dy):
        x, k = ctx.saved_tensors
        n, d = x.shape[-1], torch.fft.rfft(dy)
        dx = torch.fft.irfft(d * torch.fft.rfft(k).conj(), n=n) if ctx.needs_input_grad[0] else None
        dk = (
            torch.fft.irfft(d * torch.fft.rfft(x).conj(), n=n).sum_to_size(k.shape)
            if ctx.needs_input_grad[1]
            else None
        )
        return dx, dk


class ComplexSquare(Function):
    """dz = conj(2z) dy."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx, dy):
        (z,) = ctx.saved_tensors
        return (2 * z).conj() * dy


class ComplexAbsolute(Function):
    """From complex to real: dz = z / |z| dy."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.abs()

    @staticmethod
    def backward(ctx, dy):
        (z,) = ctx.saved_tensors
        return z / z.abs() * dy


class SinglePrecisionInside(Function):
    """Casts to float32, as kernels with a fixed precision do, and back."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x.float() * 1.7).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (1.7 * torch.cos(x.float() * 1.7) * dy.float()).to(x.dtype)


class NumpyInside(Function):
    """Foreign code, declared to be differentiable once."""

    @staticmethod
    def forward(ctx, x):
        y = np.arctan(x.numpy() * 0.5)
        ctx.save_for_backward(x)
        return torch.from_numpy(np.asarray(y))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 0.5 * dy / (1 + 0.25 * x * x)


class InPlaceDeclared(Function):
    """An in-place doubling with mark_dirty."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2).add_(1)

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class TwoOutputs(Function):
    """Sine and cosine, each gradient None where its output is not used."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return torch.sin(x), torch.cos(x)

    @staticmethod
    def backward(ctx, ds, dc):
        (x,) = ctx.saved_tensors
        dx = None
        if ds is not None:
            dx = ds * torch.cos(x)
        if dc is not None:
            dx = -dc * torch.sin(x) + (0 if dx is None else dx)
        return dx


class MaximumAndPlace(Function):
    """A second output that is an index."""

    @staticmethod
    def forward(ctx, x):
        y, place = x.max(-1)
        ctx.save_for_backward(place)
        ctx.mark_non_differentiable(place)
        ctx.shape = x.shape
        return y, place

    @staticmethod
    def backward(ctx, dy, _):
        (place,) = ctx.saved_tensors
        return dy.new_zeros(ctx.shape).scatter(-1, place[..., None], dy[..., None])


class NewStyle(Function):
    """setup_context and a vmap rule."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, exponent):
        return x.abs() ** exponent

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.exponent = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return ctx.exponent * torch.sign(x) * x.abs() ** (ctx.exponent - 1) * dy, None


class WithVjp(Function):
    """The other name of backward."""

    @staticmethod
    def forward(x):
        return x**2 + x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def vjp(ctx, dy):
        (x,) = ctx.saved_tensors
        return (2 * x + 1) * dy


class FakeQuantise(Function):
    """Jacob et al., 2018: rounding to steps, straight through."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx, dy):
        return dy.clone()


class SwiGlu(Function):
    """Shazeer, 2020: silu(a) b."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * torch.sigmoid(a) * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        s = torch.sigmoid(a)
        da = dy * b * (s + a * s * (1 - s)) if ctx.needs_input_grad[0] else None
        db = dy * a * s if ctx.needs_input_grad[1] else None
        return da, db


class Rotary(Function):
    """Su et al., 2021: pairs turned by a fixed angle; backward turns back."""

    @staticmethod
    def forward(ctx, x):
        return Rotary.turn(x, 1.0)

    @staticmethod
    def backward(ctx, dy):
        return Rotary.turn(dy, -1.0)

    @staticmethod
    def turn(x, sign):
        a, b = x.chunk(2, -1)
        angle = torch.arange(a.shape[-1], dtype=x.dtype) * 0.3 + 0.2
        c, s = torch.cos(angle), sign * torch.sin(angle)
        return torch.cat([a * c - b * s, a * s + b * c], -1)


class Absolute(Function):
    """|x|, examined at 0 too, where any slope between -1 and 1 is right."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x.abs()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * torch.sign(x) * dy


class ScaledByModule(nn.Module):
    """A Function inside a module with parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.power = 3.0

    def forward(self, x):
        return NewStyle.apply(self.linear(x), self.power)


def around(x, w):
    """A plain function around a Function."""
    return SwiGlu.apply(x, w).sum(-1)


MATRIX = sample(3, 4, 4) + 4 * torch.eye(4)
SOUND = {
    "softmax": (Softmax, (sample(3, 4),), {}),
    "rms norm": (RmsNorm, (sample(3, 4), sample(4)), {}),
    "layer norm": (LayerNorm, (sample(3, 8),), {}),
    "cross-entropy": (CrossEntropy, (sample(3, 4), torch.tensor([0, 3, 1])), {}),
    "focal loss": (FocalLoss, (sample(3, 4),), {}),
    "attention": (Attention, (sample(2, 3, 4), sample(2, 5, 4) + 0.1, sample(2, 5, 3)), {}),
    "inverse": (Inverse, (MATRIX,), {}),
    "log determinant": (LogDeterminant, (MATRIX,), {}),
    "lookup": (Lookup, (sample(6, 3), torch.tensor([0, 2, 2, 5])), {}),
    "cumulative sum": (CumulativeSum, (sample(3, 5),), {}),
    "circular convolution": (CircularConvolution, (sample(3, 8), sample(8)), {}),
    "complex square": (ComplexSquare, (sample(3, 4, dtype=torch.complex64),), {}),
    "complex absolute": (ComplexAbsolute, (sample(3, 4, dtype=torch.complex64),), {}),
    "single precision inside": (SinglePrecisionInside, (sample(3, 4),), {}),
    "single precision inside, in double": (
        SinglePrecisionInside,
        (sample(3, 4, dtype=torch.float64),),
        {},
    ),
    "NumPy inside": (NumpyInside, (sample(3, 4),), {}),
    "in place, declared": (InPlaceDeclared, (sample(3, 4),), {}),
    "two outputs": (TwoOutputs, (sample(3, 4),), {}),
    "an index beside": (MaximumAndPlace, (sample(3, 4),), {}),
    "new style": (NewStyle, (sample(3, 4), 2.5), {}),
    "vjp": (WithVjp, (sample(3, 4),), {}),
    "vjp, partly": (functools.partial(WithVjp.apply), (sample(3, 4),), {}),
    "an input that is not finite": (WithVjp, (torch.tensor([1.0, float("inf")]),), {}),
    "fake quantisation": (FakeQuantise, (sample(3, 4) * 2,), {}),
    "SwiGLU": (SwiGlu, (sample(3, 4), sample(3, 4) + 0.5), {}),
    "rotary embedding": (Rotary, (sample(3, 4),), {}),
    "absolute value with zeros": (Absolute, (torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.5, 0.0]]),), {}),
    "absolute value of zeros alone": (Absolute, (torch.zeros(3),), {}),
    "bfloat16": (LayerNorm, (sample(3, 8).bfloat16(),), {}),
    "half": (SwiGlu, (sample(3, 4).half(), sample(3, 4).half() + 0.5), {}),
    "a large input": (FocalLoss, (sample(64, 256),), {}),
    "large values": (LayerNorm, (1e4 * sample(3, 8),), {}),
    "a module": (ScaledByModule(), (sample(5, 4),), {}),
    "a callable": (around, (sample(3, 4), sample(3, 4) + 0.5), {}),
    "apply": (SwiGlu.apply, (sample(3, 4), sample(3, 4) + 0.5), {}),
    "an empty input": (SwiGlu, (sample(0, 4), sample(0, 4)), {}),
    "a single number": (FocalLoss, (torch.tensor(0.3),), {}),
}
