"""Right Functions of layers, kernels' references, quantisers and solvers, from published formulas."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, pad


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(22))


class BatchNorm(Function):
    """Ioffe and Szegedy, 2015, in training, with running statistics written as PyTorch writes them."""

    @staticmethod
    def forward(ctx, x, w, b, mean, var, momentum, eps):
        m, v = x.mean(0), x.var(0, unbiased=False)
        with torch.no_grad():
            mean.mul_(1 - momentum).add_(momentum * m)
            var.mul_(1 - momentum).add_(momentum * v)
        ctx.save_for_backward(x, w)
        ctx.eps = eps
        return (x - m) * (v + eps).rsqrt() * w + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        r = (x.var(0, unbiased=False) + ctx.eps).rsqrt()
        z = (x - x.mean(0)) * r
        needs, dx, dw, db = ctx.needs_input_grad, None, None, None
        if needs[0]:
            g = dy * w
            dx = r * (g - g.mean(0) - z * (g * z).mean(0))
        if needs[1]:
            dw = (dy * z).sum(0)
        if needs[2]:
            db = dy.sum(0)
        return dx, dw, db, None, None, None, None


class GroupNorm(Function):
    """Wu and He, 2018, of (N, C, L) in groups, without scale and shift."""

    @staticmethod
    def forward(ctx, x, groups):
        ctx.save_for_backward(x)
        ctx.groups = groups
        z, _ = GroupNorm.normal(x, groups)
        return z.reshape(x.shape)

    @staticmethod
    def normal(x, groups):
        g = x.reshape(x.shape[0], groups, x.shape[1] // groups * x.shape[2])
        r = (g.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
        return (g - g.mean(-1, keepdim=True)) * r, r

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        z, r = GroupNorm.normal(x, ctx.groups)
        d = dy.reshape(z.shape)
        dx = r * (d - d.mean(-1, keepdim=True) - z * (d * z).mean(-1, keepdim=True))
        return dx.reshape(x.shape), None


class BiasGelu(Function):
    """Megatron-LM's fused bias and GELU (tanh form)."""

    @staticmethod
    def forward(ctx, x, b):
        ctx.save_for_backward(x, b)
        return gelu(x + b, approximate="tanh")

    @staticmethod
    def backward(ctx, dy):
        x, b = ctx.saved_tensors
        z = x + b
        t = torch.tanh(0.7978845608028654 * z * (1 + 0.044715 * z * z))
        inner = 0.5 * z * (1 - t * t) * (0.7978845608028654 + 0.1070322243 * z * z)
        d = (inner + 0.5 * (1 + t)) * dy
        return d, (d.sum_to_size(b.shape) if ctx.needs_input_grad[1] else None)


class CausalSoftmax(Function):
    """Megatron-LM's fused scale, causal mask and softmax."""

    @staticmethod
    def forward(ctx, x, scale):
        hidden = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
        y = (x * scale).masked_fill(hidden, -1e4).softmax(-1)
        ctx.save_for_backward(y)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return ctx.scale * y * (dy - (dy * y).sum(-1, keepdim=True)), None


class GeGlu(Function):
    """Shazeer, 2020, on halves of one input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        a, b = x.chunk(2, -1)
        return gelu(a) * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors[0].chunk(2, -1)
        cdf = 0.5 * (1 + torch.erf(a * 0.5**0.5))
        pdf = torch.exp(-a * a / 2) * 0.3989422804014327
        return torch.cat([dy * b * (cdf + a * pdf), dy * a * cdf], -1)


class GemmaNorm(Function):
    """RMS norm with 1 + w, the statistics in float32 whatever the input is."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        z = x.float()
        return (z * (z.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + w.float())).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        z, d = x.float(), dy.float()
        r = (z.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            g = d * (1 + w.float())
            dx = (r * (g - z * r * r * (g * z).mean(-1, keepdim=True))).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dw = (d * z * r).sum_to_size(w.shape).to(w.dtype)
        return dx, dw


class RotaryWithTables(Function):
    """Su et al., 2021, halves turned by cosines and sines that are passed in."""

    @staticmethod
    def turn(x, c, s):
        a, b = x.chunk(2, -1)
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    @staticmethod
    def forward(ctx, x, c, s):
        ctx.save_for_backward(c, s)
        return RotaryWithTables.turn(x, c, s)

    @staticmethod
    def backward(ctx, dy):
        c, s = ctx.saved_tensors
        return RotaryWithTables.turn(dy, c, -s), None, None


class LinearRecurrence(Function):
    """h_t = a_t h_{t-1} + b_t (Martin and Cundy, 2018; S5, Mamba): backward runs back in time."""

    @staticmethod
    def forward(ctx, a, b):
        h, state = [], torch.zeros_like(b[:, 0])
        for t in range(b.shape[1]):
            state = a[:, t] * state + b[:, t]
            h.append(state)
        h = torch.stack(h, 1)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx, dy):
        a, h = ctx.saved_tensors
        db, carried = [], torch.zeros_like(dy[:, 0])
        for t in reversed(range(dy.shape[1])):
            carried = dy[:, t] + carried
            db.append(carried)
            carried = carried * a[:, t]
        db = torch.stack(db[::-1], 1)
        before = pad(h, (0, 0, 1, 0))[:, :-1]
        return db * before if ctx.needs_input_grad[0] else None, db


class Reversible(Function):
    """Gomez et al., 2017: y1 = x1 + F(x2), y2 = x2 + G(y1); inputs computed back from outputs."""

    @staticmethod
    def forward(ctx, x, v, w):
        with torch.no_grad():
            a, b = x.chunk(2, -1)
            y1 = a + torch.tanh(b @ v)
            y2 = b + torch.tanh(y1 @ w)
        y = torch.cat([y1, y2], -1)
        ctx.save_for_backward(y, v, w)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        y, v, w = ctx.saved_tensors
        y1, y2 = y.chunk(2, -1)
        d1, d2 = dy.chunk(2, -1)
        with torch.enable_grad():
            z, again = y1.detach().requires_grad_(), w.detach().requires_grad_()
            dz, dw = torch.autograd.grad(torch.tanh(z @ again), (z, again), d2)
        b = y2 - torch.tanh(y1 @ w)
        d1 = d1 + dz
        with torch.enable_grad():
            z, again = b.detach().requires_grad_(), v.detach().requires_grad_()
            dz, dv = torch.autograd.grad(torch.tanh(z @ again), (z, again), d1)
        needs = ctx.needs_input_grad
        dx = torch.cat([d1, d2 + dz], -1)
        return dx if needs[0] else None, dv if needs[1] else None, dw if needs[2] else None


class AffineCoupling(Function):
    """Dinh et al., 2017 (RealNVP): y2 = x2 exp(s) + t, and the log-determinant Σ s beside."""

    @staticmethod
    def forward(ctx, x, s, t):
        ctx.save_for_backward(x, s)
        return x * torch.exp(s) + t, s.sum(-1)

    @staticmethod
    def backward(ctx, dy, dlog):
        x, s = ctx.saved_tensors
        needs, e = ctx.needs_input_grad, torch.exp(s)
        dx = dy * e if needs[0] else None
        ds = dy * x * e + dlog.unsqueeze(-1) if needs[1] else None
        return dx, ds, dy


class FakeQuantiseClipped(Function):
    """Krishnamoorthi, 2018: affine fake quantisation; straight through inside the range, 0 outside."""

    @staticmethod
    def forward(ctx, x, scale, zero):
        q = torch.round(x / scale) + zero
        ctx.save_for_backward((q >= 0) & (q <= 15))
        return (q.clamp(0, 15) - zero) * scale

    @staticmethod
    def backward(ctx, dy):
        (inside,) = ctx.saved_tensors
        return dy * inside, None, None


class LsqStep(Function):
    """Esser et al., 2020: the step is learnt; its gradient round(x/s) - x/s inside, ±Q outside."""

    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x, s)
        return torch.round((x / s).clamp(-4, 3)) * s

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        z = x / s
        inside = (z > -4) & (z < 3)
        ds = torch.where(inside, torch.round(z) - z, z.clamp(-4, 3)) * dy
        return (
            dy * inside if ctx.needs_input_grad[0] else None,
            ds.sum().reshape(s.shape) if ctx.needs_input_grad[1] else None,
        )


class DoReFa(Function):
    """Zhou et al., 2016: k bits on [0, 1], straight through."""

    @staticmethod
    def forward(ctx, x, bits):
        n = 2**bits - 1
        return torch.round(x * n) / n

    @staticmethod
    def backward(ctx, dy):
        return dy.clone(), None


class Pact(Function):
    """Choi et al., 2018: clipping at a learnt alpha; dalpha is the sum over what was clipped."""

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.save_for_backward(x, alpha)
        return torch.minimum(x.clamp(min=0), alpha)

    @staticmethod
    def backward(ctx, dy):
        x, alpha = ctx.saved_tensors
        dx = dy * ((x > 0) & (x < alpha)) if ctx.needs_input_grad[0] else None
        da = (dy * (x >= alpha)).sum().reshape(alpha.shape) if ctx.needs_input_grad[1] else None
        return dx, da


class Ternary(Function):
    """Li et al., 2016: weights to -1, 0, 1 at a fixed threshold, straight through."""

    @staticmethod
    def forward(ctx, w):
        return torch.sign(w) * (w.abs() > 0.5)

    @staticmethod
    def backward(ctx, dy):
        return dy.clone()


class VectorQuantise(Function):
    """van den Oord et al., 2017: the nearest code, straight through to x, summed to the codes used."""

    @staticmethod
    def forward(ctx, x, codes):
        place = torch.cdist(x, codes).argmin(-1)
        ctx.save_for_backward(place)
        ctx.mark_non_differentiable(place)
        ctx.shape = codes.shape
        return codes[place], place

    @staticmethod
    def backward(ctx, dy, _):
        (place,) = ctx.saved_tensors
        dx = dy.clone() if ctx.needs_input_grad[0] else None
        dc = None
        if ctx.needs_input_grad[1]:
            dc = dy.new_zeros(ctx.shape).index_add(0, place, dy)
        return dx, dc


class TopK(Function):
    """The k largest and zeros elsewhere: sparse activations, gates of experts."""

    @staticmethod
    def forward(ctx, x, k):
        values, places = x.topk(k, -1)
        ctx.save_for_backward(places)
        return torch.zeros_like(x).scatter(-1, places, values)

    @staticmethod
    def backward(ctx, dy):
        (places,) = ctx.saved_tensors
        return torch.zeros_like(dy).scatter(-1, places, dy.gather(-1, places)), None


class Dispatch(Function):
    """Rows to experts' slots and back (Switch, GShard): a permutation with weights."""

    @staticmethod
    def forward(ctx, x, order, weight):
        ctx.save_for_backward(x, order, weight)
        return x[order] * weight[order].unsqueeze(-1)

    @staticmethod
    def backward(ctx, dy):
        x, order, weight = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = torch.zeros_like(x).index_copy(0, order, dy * weight[order].unsqueeze(-1))
        if ctx.needs_input_grad[2]:
            dw = torch.zeros_like(weight).index_copy(0, order, (dy * x[order]).sum(-1))
        return dx, None, dw


class SegmentMean(Function):
    """A mean over neighbours (GraphSAGE; torch_scatter): rows summed by an index, over counts."""

    @staticmethod
    def forward(ctx, x, index, count):
        sizes = torch.bincount(index, minlength=count).clamp(min=1).to(x.dtype)
        ctx.save_for_backward(index, sizes)
        return x.new_zeros(count, x.shape[1]).index_add(0, index, x) / sizes[:, None]

    @staticmethod
    def backward(ctx, dy):
        index, sizes = ctx.saved_tensors
        return (dy / sizes[:, None])[index], None, None


class Solve(Function):
    """x of A x = b: db = A⁻ᵀ dx, dA = -db xᵀ. The adjoint of implicit layers."""

    @staticmethod
    def forward(ctx, a, b):
        x = torch.linalg.solve(a, b)
        ctx.save_for_backward(a, x)
        return x

    @staticmethod
    def backward(ctx, dx):
        a, x = ctx.saved_tensors
        db = torch.linalg.solve(a.mT, dx)
        return -db @ x.mT if ctx.needs_input_grad[0] else None, db


class FixedPoint(Function):
    """Bai et al., 2019: z = tanh(z w + x); backward solves its own fixed point."""

    @staticmethod
    def forward(ctx, x, w):
        z = torch.zeros_like(x)
        for _ in range(80):
            z = torch.tanh(z @ w + x)
        ctx.save_for_backward(z, w)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, dz):
        z, w = ctx.saved_tensors
        slope, u = 1 - z * z, dz
        for _ in range(80):
            u = dz + (u * slope) @ w.t()
        v = u * slope
        return v, (z.t() @ v if ctx.needs_input_grad[1] else None)


class OdeAdjoint(Function):
    """Chen et al., 2018: Euler steps of dh/dt = tanh(h w), differentiated step by step from the end."""

    @staticmethod
    def forward(ctx, h, w):
        states = [h]
        for _ in range(5):
            states.append(states[-1] + 0.1 * torch.tanh(states[-1] @ w))
        ctx.save_for_backward(w, *states[:-1])
        return states[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, dh):
        w, *states = ctx.saved_tensors
        dw = torch.zeros_like(w)
        for h in reversed(states):
            d = 0.1 * dh * (1 - torch.tanh(h @ w) ** 2)
            dw = dw + h.t() @ d
            dh = dh + d @ w.t()
        return dh, dw if ctx.needs_input_grad[1] else None


class SymmetricEigenvalues(Function):
    """Eigenvalues of a symmetric matrix: dA = V diag(dλ) Vᵀ (Giles, 2008)."""

    @staticmethod
    def forward(ctx, a):
        values, vectors = torch.linalg.eigh((a + a.mT) / 2)
        ctx.save_for_backward(vectors)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, dvalues):
        (v,) = ctx.saved_tensors
        return v * dvalues.unsqueeze(-2) @ v.mT


class Cholesky(Function):
    """Murray, 2016: L of A = L Lᵀ, with the gradient made symmetric."""

    @staticmethod
    def forward(ctx, a):
        factor = torch.linalg.cholesky((a + a.mT) / 2)
        ctx.save_for_backward(factor)
        return factor

    @staticmethod
    def backward(ctx, d):
        (factor,) = ctx.saved_tensors
        p = (factor.mT @ d).tril()
        p = p - 0.5 * torch.diag_embed(p.diagonal(dim1=-2, dim2=-1))
        inverse = torch.linalg.inv(factor)
        s = inverse.mT @ p @ inverse
        return (s + s.mT) / 2


class Householder(Function):
    """y = x - 2 (x·v) v / (v·v)."""

    @staticmethod
    def forward(ctx, x, v):
        ctx.save_for_backward(x, v)
        return x - 2 * (x @ v).unsqueeze(-1) * v / (v @ v)

    @staticmethod
    def backward(ctx, dy):
        x, v = ctx.saved_tensors
        n = v @ v
        dx = dv = None
        if ctx.needs_input_grad[0]:
            dx = dy - 2 * (dy @ v).unsqueeze(-1) * v / n
        if ctx.needs_input_grad[1]:
            xv, dv_ = x @ v, dy @ v
            dv = -2 / n * (x.t() @ dv_ + dy.t() @ xv) + 4 * (xv @ dv_) * v / n**2
        return dx, dv


class Hadamard(Function):
    """The fast Walsh-Hadamard transform of the last dim, its own inverse up to a factor."""

    @staticmethod
    def transform(x):
        y, h = x, 1
        while h < x.shape[-1]:
            pairs = y.reshape(*x.shape[:-1], x.shape[-1] // (2 * h), 2, h)
            a, b = pairs.unbind(-2)
            y = torch.stack([a + b, a - b], -2).reshape(x.shape)
            h *= 2
        return y / x.shape[-1] ** 0.5

    @staticmethod
    def forward(ctx, x):
        return Hadamard.transform(x)

    @staticmethod
    def backward(ctx, dy):
        return Hadamard.transform(dy)


class SortedValues(Function):
    """Sorting: the gradient is put back where its value came from."""

    @staticmethod
    def forward(ctx, x):
        y, order = x.sort(-1)
        ctx.save_for_backward(order)
        return y

    @staticmethod
    def backward(ctx, dy):
        (order,) = ctx.saved_tensors
        return torch.zeros_like(dy).scatter(-1, order, dy)


class PixelShuffle(Function):
    """Shi et al., 2016: channels to space; backward is its inverse."""

    @staticmethod
    def forward(ctx, x, r):
        ctx.r = r
        n, c, h, w = x.shape
        return (
            x.reshape(n, c // (r * r), r, r, h, w)
            .permute(0, 1, 4, 2, 5, 3)
            .reshape(n, c // (r * r), h * r, w * r)
        )

    @staticmethod
    def backward(ctx, dy):
        n, c, h, w = dy.shape
        r = ctx.r
        parts = dy.reshape(n, c, h // r, r, w // r, r).permute(0, 1, 3, 5, 2, 4)
        return parts.reshape(n, c * r * r, h // r, w // r), None


class Depthwise(Function):
    """A depthwise convolution over time, causal (Mamba's conv1d): y_t = Σ_k w_k x_{t-k}."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        length = x.shape[-1]
        padded = pad(x, (w.shape[-1] - 1, 0))
        return sum(
            w[:, k, None] * padded[..., w.shape[-1] - 1 - k :][..., :length] for k in range(w.shape[-1])
        )

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        length, count = x.shape[-1], w.shape[-1]
        dx = dw = None
        if ctx.needs_input_grad[0]:
            later = pad(dy, (0, count - 1))
            dx = sum(w[:, k, None] * later[..., k:][..., :length] for k in range(count))
        if ctx.needs_input_grad[1]:
            padded = pad(x, (count - 1, 0))
            dw = torch.stack(
                [(dy * padded[..., count - 1 - k :][..., :length]).sum((0, 2)) for k in range(count)], 1
            )
        return dx, dw


class TensorParallelCopy(Function):
    """Megatron-LM's copy to a region: the identity, whose gradient would be summed over ranks."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, dy):
        return dy


class MaskedDropout(Function):
    """Srivastava et al., 2014, with the mask drawn outside."""

    @staticmethod
    def forward(ctx, x, mask, p):
        ctx.save_for_backward(mask)
        ctx.p = p
        return x * mask / (1 - p)

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return dy * mask / (1 - ctx.p), None, None


class MemoryEfficientSwish(Function):
    """timm's memory-efficient Swish: only x is kept."""

    @staticmethod
    def symbolic(graph, x):
        return graph.op("Mul", x, graph.op("Sigmoid", x))

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.mul(torch.sigmoid(x))

    @staticmethod
    def backward(ctx, dy):
        x = ctx.saved_tensors[0]
        s = torch.sigmoid(x)
        return dy.mul(s * (1 + x * (1 - s)))


class NerfTruncatedExp(Function):
    """Instant-NGP's truncated exponential: exact forward, the slope held at e¹⁵."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * torch.exp(x.clamp(max=15))


class SphericalHarmonics(Function):
    """The first four real harmonics of a direction, as kernels for radiance fields write them."""

    @staticmethod
    def forward(ctx, d):
        ctx.size = d.shape
        x, y, z = d.unbind(-1)
        return torch.stack([0.28209479 + 0 * x, -0.48860251 * y, 0.48860251 * z, -0.48860251 * x], -1)

    @staticmethod
    def backward(ctx, dy):
        return torch.stack([-dy[..., 3], -dy[..., 1], dy[..., 2]], -1) * 0.48860251


SQUARE = sample(4, 4) + 5 * torch.eye(4)
ANGLES = torch.arange(2) * 0.3 + 0.2
SOUND = {
    "batch norm with running statistics": (
        BatchNorm,
        (
            sample(6, 3).requires_grad_(), (sample(3) + 2).requires_grad_(),
            sample(3).requires_grad_(), torch.zeros(3), torch.ones(3), 0.1, 1e-5,
        ),
        {},
    ),
    "group norm": (GroupNorm, (sample(2, 4, 3), 2), {}),
    "bias and GELU": (BiasGelu, (sample(3, 4), sample(4)), {}),
    "causal softmax": (CausalSoftmax, (sample(2, 4, 4), 0.5), {}),
    "GeGLU": (GeGlu, (sample(3, 8),), {}),
    "Gemma's norm": (GemmaNorm, (sample(3, 4), sample(4)), {}),
    "Gemma's norm in bfloat16": (GemmaNorm, (sample(3, 4).bfloat16(), sample(4).bfloat16()), {}),
    "rotary embedding with tables": (
        RotaryWithTables, (sample(3, 4).requires_grad_(), ANGLES.cos(), ANGLES.sin()), {},
    ),
    "linear recurrence": (LinearRecurrence, (torch.rand(2, 5, 3), sample(2, 5, 3)), {}),
    "reversible block": (Reversible, (sample(3, 6), sample(3, 3), sample(3, 3) * 0.7), {}),
    "affine coupling": (AffineCoupling, (sample(3, 4), sample(3, 4) * 0.5, sample(3, 4) + 1), {}),
    "fake quantisation with a range": (
        FakeQuantiseClipped, (sample(3, 4).requires_grad_(), torch.tensor(0.2), 7), {},
    ),
    "LSQ": (LsqStep, (sample(3, 4), torch.tensor([0.31])), {}),
    "DoReFa": (DoReFa, (torch.rand(3, 4), 3), {}),
    "PACT": (Pact, (sample(3, 4) * 3, torch.tensor([1.3])), {}),
    "ternary weights": (Ternary, (sample(3, 4),), {}),
    "vector quantisation": (VectorQuantise, (sample(5, 3), sample(4, 3)), {}),
    "top k": (TopK, (sample(3, 6), 2), {}),
    "dispatch to experts": (Dispatch, (sample(4, 3), torch.tensor([2, 0, 3, 1]), torch.rand(4)), {}),
    "segment mean": (SegmentMean, (sample(5, 3), torch.tensor([0, 2, 2, 1, 0]), 4), {}),
    "solve": (Solve, (SQUARE, sample(4, 2)), {}),
    "fixed point": (FixedPoint, (sample(3, 4), sample(4, 4) * 0.1), {}),
    "neural ODE": (OdeAdjoint, (sample(3, 4), sample(4, 4)), {}),
    "symmetric eigenvalues": (SymmetricEigenvalues, (sample(4, 4),), {}),
    "Cholesky": (Cholesky, (SQUARE @ SQUARE.t(),), {}),
    "Householder": (Householder, (sample(3, 4), sample(4) + 1), {}),
    "Walsh-Hadamard": (Hadamard, (sample(3, 8),), {}),
    "sorting": (SortedValues, (sample(3, 5),), {}),
    "pixel shuffle": (PixelShuffle, (sample(2, 8, 2, 3), 2), {}),
    "causal depthwise convolution": (Depthwise, (sample(2, 3, 6), sample(3, 3)), {}),
    "copy to tensor parallel": (TensorParallelCopy, (sample(3, 4),), {}),
    "dropout with a mask": (MaskedDropout, (sample(3, 4).requires_grad_(), sample(3, 4) > 0, 0.4), {}),
    "memory-efficient Swish": (MemoryEfficientSwish, (sample(3, 4),), {}),
    "truncated exponential": (NerfTruncatedExp, (sample(3, 4),), {}),
    "spherical harmonics": (SphericalHarmonics, (sample(5, 3),), {}),
}  # fmt: skip
