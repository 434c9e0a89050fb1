"""Right Functions of losses and of what comes right before them, each from its published formula."""

import torch
from torch.autograd import Function
from torch.nn.functional import logsigmoid, one_hot, softplus


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(21))


class Dice(Function):
    """Milletari et al., 2016 (V-Net): 1 - 2 Σ p t / (Σ p² + Σ t²)."""

    @staticmethod
    def forward(ctx, p, t):
        overlap, size = (p * t).sum(), (p * p).sum() + (t * t).sum()
        ctx.save_for_backward(p, t)
        return 1 - 2 * overlap / size

    @staticmethod
    def backward(ctx, dy):
        p, t = ctx.saved_tensors
        overlap, size = (p * t).sum(), (p * p).sum() + (t * t).sum()
        return -2 * dy * (t * size - 2 * p * overlap) / size**2, None


class Tversky(Function):
    """Salehi et al., 2017, with alpha for false positives and β for false negatives."""

    @staticmethod
    def forward(ctx, p, t, alpha=0.3, beta=0.7):
        ctx.save_for_backward(p, t)
        ctx.alpha, ctx.beta = alpha, beta
        hit = (p * t).sum()
        return 1 - hit / (hit + alpha * (p * (1 - t)).sum() + beta * ((1 - p) * t).sum())

    @staticmethod
    def backward(ctx, dy):
        p, t = ctx.saved_tensors
        hit = (p * t).sum()
        all_ = hit + ctx.alpha * (p * (1 - t)).sum() + ctx.beta * ((1 - p) * t).sum()
        slope = t + ctx.alpha * (1 - t) - ctx.beta * t
        dp = -dy * (t * all_ - hit * slope) / all_**2
        return (dp, None, None, None)[: len(ctx.needs_input_grad)]


class Triplet(Function):
    """Schroff et al., 2015: max(|a - p|² - |a - n|² + m, 0)."""

    @staticmethod
    def forward(ctx, a, p, n, margin):
        ctx.save_for_backward(a, p, n)
        gap = (a - p).square().sum(-1) - (a - n).square().sum(-1) + margin
        ctx.is_active = gap > 0
        return gap.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        a, p, n = ctx.saved_tensors
        w = 2 * (dy * ctx.is_active).unsqueeze(-1)
        needs = ctx.needs_input_grad
        da = w * (n - p) if needs[0] else None
        dp = w * (p - a) if needs[1] else None
        dn = w * (a - n) if needs[2] else None
        return da, dp, dn, None


class InfoNce(Function):
    """van den Oord et al., 2018, of rows of x and y that belong together, at a temperature."""

    @staticmethod
    def forward(ctx, x, y, temperature):
        ctx.save_for_backward(x, y)
        ctx.temperature = temperature
        logits = x @ y.t() / temperature
        return (logits.logsumexp(1) - logits.diagonal()).mean()

    @staticmethod
    def backward(ctx, dloss):
        x, y = ctx.saved_tensors
        p = (x @ y.t() / ctx.temperature).softmax(1)
        d = (p - torch.eye(len(x), dtype=x.dtype)) / (len(x) * ctx.temperature) * dloss
        dx = d @ y if ctx.needs_input_grad[0] else None
        dy = d.t() @ x if ctx.needs_input_grad[1] else None
        return dx, dy, None


class LabelSmoothing(Function):
    """Szegedy et al., 2016: cross-entropy against (1 - ε) of the class and ε / K of all."""

    @staticmethod
    def forward(ctx, x, target, epsilon):
        q = one_hot(target, x.shape[-1]).to(x.dtype) * (1 - epsilon) + epsilon / x.shape[-1]
        ctx.save_for_backward(x, q)
        return -(q * x.log_softmax(-1)).sum(-1)

    @staticmethod
    def backward(ctx, dy):
        x, q = ctx.saved_tensors
        return (x.softmax(-1) - q) * dy.unsqueeze(-1), None, None


class Wing(Function):
    """Feng et al., 2018: w ln(1 + |x| / ε) up to w, |x| - C beyond."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        w, e = 1.0, 0.5
        c = w - w * torch.log(torch.tensor(1 + w / e, dtype=x.dtype))
        return torch.where(x.abs() < w, w * torch.log1p(x.abs() / e), x.abs() - c)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        inner = torch.sign(x) / (0.5 + x.abs())
        return dy * torch.where(x.abs() < 1.0, inner, torch.sign(x))


class Adaptive(Function):
    """Barron, 2019: (|a - 2| / a) ((x² / |a - 2| + 1)^(a/2) - 1) with a = 1.5 and c = 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 / 1.5 * ((x * x / 0.5 + 1) ** 0.75 - 1)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * x * (x * x / 0.5 + 1) ** -0.25


class Pinball(Function):
    """Koenker and Bassett, 1978: max(τ r, (τ - 1) r) of r = t - x."""

    @staticmethod
    def forward(ctx, x, t, tau):
        ctx.save_for_backward(x, t)
        ctx.tau = tau
        r = t - x
        return torch.maximum(tau * r, (tau - 1) * r)

    @staticmethod
    def backward(ctx, dy):
        x, t = ctx.saved_tensors
        slope = torch.where(t > x, ctx.tau, ctx.tau - 1) * dy
        return (
            -slope if ctx.needs_input_grad[0] else None,
            slope if ctx.needs_input_grad[1] else None,
            None,
        )


class Poly1(Function):
    """Leng et al., 2022: cross-entropy plus ε (1 - p)."""

    @staticmethod
    def forward(ctx, x, target):
        ctx.save_for_backward(x, target)
        p = x.softmax(-1).gather(-1, target[:, None]).squeeze(-1)
        return -p.log() + 2.0 * (1 - p)

    @staticmethod
    def backward(ctx, dy):
        x, target = ctx.saved_tensors
        p = x.softmax(-1)
        hit = one_hot(target, x.shape[-1]).to(x.dtype)
        at = (p * hit).sum(-1, keepdim=True)
        return (1 + 2.0 * at) * (p - hit) * dy.unsqueeze(-1), None


class SigmoidFocal(Function):
    """Lin et al., 2017, as torchvision has it: of logits and targets, mean, alpha 0.25, gamma 2."""

    @staticmethod
    def forward(ctx, x, t):
        ctx.save_for_backward(x, t)
        z = torch.where(t > 0.5, x, -x)
        weight = torch.where(t > 0.5, 0.25, 0.75)
        return (-weight * torch.sigmoid(-z) ** 2 * logsigmoid(z)).mean()

    @staticmethod
    def backward(ctx, dy):
        x, t = ctx.saved_tensors
        sign = torch.where(t > 0.5, 1.0, -1.0)
        z = sign * x
        weight = torch.where(t > 0.5, 0.25, 0.75)
        q = torch.sigmoid(-z)
        slope = weight * (2 * q**2 * (1 - q) * logsigmoid(z) - q**3)
        return sign * slope * dy / x.numel(), None


class BceWithWeight(Function):
    """Binary cross-entropy of logits, in the stable form, with a weight for positives."""

    @staticmethod
    def forward(ctx, x, t, weight):
        ctx.save_for_backward(x, t, weight)
        return ((1 - t) * x + (1 + (weight - 1) * t) * softplus(-x)).sum()

    @staticmethod
    def backward(ctx, dy):
        x, t, weight = ctx.saved_tensors
        return ((1 - t) - (1 + (weight - 1) * t) * torch.sigmoid(-x)) * dy, None, None


class Sparsemax(Function):
    """Martins and Astudillo, 2016: the projection on the simplex."""

    @staticmethod
    def forward(ctx, x):
        z = x.sort(-1, descending=True).values
        k = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
        cumulative = z.cumsum(-1)
        support = (1 + k * z > cumulative).sum(-1, keepdim=True)
        tau = (cumulative.gather(-1, support - 1) - 1) / support
        y = (x - tau).clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        s = (y > 0).to(y.dtype)
        return s * (dy - (dy * s).sum(-1, keepdim=True) / s.sum(-1, keepdim=True))


class Entmax15(Function):
    """Peters et al., 2019: 1.5-entmax, by sorting; backward as in their package."""

    @staticmethod
    def forward(ctx, x):
        z = (x - x.amax(-1, keepdim=True)) / 2
        s = z.sort(-1, descending=True).values
        k = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
        mean, square = s.cumsum(-1) / k, (s * s).cumsum(-1) / k
        tau = mean - ((1 - k * (square - mean * mean)) / k).clamp(min=0).sqrt()
        support = (tau <= s).sum(-1, keepdim=True)
        y = (z - tau.gather(-1, support - 1)).clamp(min=0) ** 2
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        root = torch.where(y > 0, y, 1).sqrt() * (y > 0)
        dx = dy * root
        return dx - dx.sum(-1, keepdim=True) / root.sum(-1, keepdim=True) * root


class ChunkedCrossEntropy(Function):
    """Linear and cross-entropy in one, a few rows at a time (Liger kernel): no whole logits."""

    @staticmethod
    def forward(ctx, x, w, target):
        dx, dw, loss = torch.empty_like(x), torch.zeros_like(w), x.new_zeros(())
        for rows in torch.arange(len(x)).split(2):
            logits = x[rows] @ w.t()
            p = logits.softmax(-1)
            loss = loss - p.gather(-1, target[rows, None]).log().sum()
            d = p - one_hot(target[rows], w.shape[0])
            dx[rows] = d @ w
            dw += d.t() @ x[rows]
        ctx.save_for_backward(dx / len(x), dw / len(x))
        return loss / len(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        dx, dw = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return dx * dy if needs[0] else None, dw * dy if needs[1] else None, None


class ArcMargin(Function):
    """Wang et al., 2018 (CosFace): s (cos θ - m) for the class, s cos θ for the others."""

    @staticmethod
    def forward(ctx, cosine, target, s, m):
        ctx.s = s
        return s * (cosine - m * one_hot(target, cosine.shape[-1]))

    @staticmethod
    def backward(ctx, dy):
        return ctx.s * dy, None, None, None


class VicVariance(Function):
    """Bardes et al., 2022 (VICReg): hinge on the deviation of each column."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (1.5 - (x.var(0) + 1e-4).sqrt()).clamp(min=0).mean()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        std = (x.var(0) + 1e-4).sqrt()
        slope = (x - x.mean(0)) / ((len(x) - 1) * std)
        return -slope * (std < 1.5) / x.shape[1] * dy


class SinkhornStep(Function):
    """Cuturi, 2013: one scaling of rows and columns, in logarithms."""

    @staticmethod
    def forward(ctx, x):
        rows = x - x.logsumexp(-1, keepdim=True)
        y = rows - rows.logsumexp(-2, keepdim=True)
        ctx.save_for_backward(x, rows)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, rows = ctx.saved_tensors
        d = dy - rows.softmax(-2) * dy.sum(-2, keepdim=True)
        return d - x.softmax(-1) * d.sum(-1, keepdim=True)


class GIoU(Function):
    """Rezatofighi et al., 2019, of boxes (x1, y1, x2, y2), with autograd inside backward."""

    @staticmethod
    def value(a, b):
        def area(box):
            return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])

        low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
        inter = (high - low).clamp(min=0).prod(-1)
        union = area(a) + area(b) - inter
        hull = torch.cat([torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])], 1)
        return 1 - (inter / union - (area(hull) - union) / area(hull))

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return GIoU.value(a, b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        with torch.enable_grad():
            again = a.detach().requires_grad_()
            return torch.autograd.grad(GIoU.value(again, b), again, dy)[0], None


BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 4], [0, 0, 1, 1]])
OTHERS = torch.tensor([[0.5, 0.4, 2.5, 2.1], [0.8, 1.2, 3.3, 3.9], [2, 2.1, 3, 3]])
CLASSES = torch.tensor([0, 3, 1, 2, 3])
SOUND = {
    "dice": (Dice, (torch.rand(3, 4).requires_grad_(), (sample(3, 4) > 0).float()), {}),
    "Tversky": (Tversky, (torch.rand(3, 4).requires_grad_(), (sample(3, 4) > 0).float(), 0.4, 0.6), {}),
    "triplet": (Triplet, (sample(5, 3), sample(5, 3) + 0.3, sample(5, 3) * 0.8, 1.0), {}),
    "InfoNCE": (InfoNce, (sample(5, 3), sample(5, 3) + 0.2, 0.5), {}),
    "label smoothing": (LabelSmoothing, (sample(5, 4), CLASSES, 0.1), {}),
    "wing loss": (Wing, (sample(3, 4),), {}),
    "adaptive robust loss": (Adaptive, (sample(3, 4),), {}),
    "pinball": (Pinball, (sample(3, 4), sample(3, 4) + 0.3, 0.9), {}),
    "poly-1": (Poly1, (sample(5, 4), CLASSES), {}),
    "sigmoid focal loss": (
        SigmoidFocal, (sample(3, 4).requires_grad_(), (sample(3, 4) > 0).float()), {},
    ),
    "weighted BCE": (
        BceWithWeight,
        (sample(3, 4).requires_grad_(), (sample(3, 4) > 0).float(), torch.tensor([1.0, 2, 3, 4])),
        {},
    ),
    "sparsemax": (Sparsemax, (sample(3, 5),), {}),
    "entmax 1.5": (Entmax15, (sample(3, 5),), {}),
    "chunked linear cross-entropy": (ChunkedCrossEntropy, (sample(5, 3), sample(4, 3), CLASSES), {}),
    "CosFace margin": (ArcMargin, (sample(5, 4).tanh(), CLASSES, 30.0, 0.35), {}),
    "VICReg variance": (VicVariance, (sample(6, 3),), {}),
    "Sinkhorn step": (SinkhornStep, (sample(4, 5),), {}),
    "GIoU": (GIoU, (BOXES.requires_grad_(), OTHERS), {}),
}  # fmt: skip
