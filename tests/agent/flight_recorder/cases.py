"""Programs in which a NaN or an infinity arises in a known place. The line of the fault ends with `# fault`.

Each model computes soundly, unless its attribute `is_sick` is set.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.utils.checkpoint import checkpoint

N = 8
X = torch.linspace(-1, 1, N * 6).reshape(N, 6)


def targets():
    return torch.arange(N) % 4


class Sick(nn.Module):
    """A layer that computes `sick(x)` or `sound(x)`."""

    def __init__(self, sick, sound=lambda x: x):
        super().__init__()
        self.is_sick = False
        self.sick, self.sound = sick, sound

    def forward(self, x):
        return self.sick(x) if self.is_sick else self.sound(x)


def mlp(layer):
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), layer, nn.Linear(16, 4))


def mse(out, _model):
    return out.square().mean()


def cross_entropy(out, _model):
    return F.cross_entropy(out, targets())


@dataclass(frozen=True)
class Case:
    """What is trained, and where the fault is. `operation` must be part of the operation that is reported."""

    make: Callable[[], nn.Module]
    place: str
    layers: tuple[str, ...]
    operation: str
    loss_of: Callable[[torch.Tensor, nn.Module], torch.Tensor] = mse
    inputs: Callable[[nn.Module], torch.Tensor] = lambda _model: X.clone()
    options: frozenset[str] = field(default_factory=frozenset)


def set_sick(model, is_sick):
    """Switch the fault of a model on or off."""
    for module in model.modules():
        if hasattr(module, "is_sick"):
            module.is_sick = is_sick


# Forward


def log_of_zero(x):
    return torch.log(F.relu(x)) * 0.1  # fault


def zero_by_zero(x):
    centered = x - x
    return centered / centered.abs().sum()  # fault


def root_of_negative(x):
    return torch.sqrt(x - 2)  # fault


def exp_overflow(x):
    grown = torch.exp(x * 0 + 100)  # fault
    return grown - grown


def half_overflow(x):
    y = x.half() * 0 + 300
    wide = y * y  # fault
    return (wide - wide).float()


def negative_power(x):
    return (x - 2) ** 0.5  # fault


def zero_variance(x):
    constant = x * 0
    return (constant - constant.mean()) / constant.var(unbiased=False)  # fault


def variance_of_one(x):
    return x + x[:1].std(dim=0)  # fault


def acos_beyond(x):
    return torch.acos(x * 0 + 1.5)  # fault


def masked_rows(x):
    scores = (x @ x.T).masked_fill(torch.ones(N, N, dtype=torch.bool), -torch.inf)
    return torch.softmax(scores, -1) @ x  # fault


def mean_of_nothing(x):
    chosen = x[x[:, 0] > 10]
    return x + chosen.mean(0)  # fault


def infinite_difference(x):
    big = x * 0 + 3e38
    return big * 10 - big * 10  # fault


class Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 1 / (x - x)  # fault

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Attention(nn.Module):
    """Attention in half precision, whose scores overflow."""

    def __init__(self):
        super().__init__()
        self.is_sick = False
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, x):
        query, key, value = (each(x).half() for each in (self.query, self.key, self.value))
        factor = 3000 if self.is_sick else 1
        scores = (query * 0 + factor) @ (key * 0 + factor).transpose(-2, -1)  # fault
        return (torch.softmax(scores.float(), -1) @ value.float()).float()


class Encoder(nn.Module):
    """A transformer with a float mask, of which a row is masked completely."""

    def __init__(self):
        super().__init__()
        self.is_sick = False
        self.norm = nn.LayerNorm(6)
        self.project = nn.Linear(6, 18)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        query, key, value = self.project(self.norm(x))[None, None].chunk(3, -1)
        mask = torch.zeros(N, N)
        if self.is_sick:
            mask[2] = -torch.inf
        scores = query @ key.transpose(-2, -1) + mask
        mixed = scores.softmax(-1) @ value  # fault
        return self.head(x + mixed[0, 0])


class FusedAttention(nn.Module):
    """Attention in one operation, whose scores overflow."""

    def __init__(self):
        super().__init__()
        self.is_sick = False
        self.project = nn.Linear(6, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        query, key, value = self.project(x)[None, None].chunk(3, -1)
        scale = 1e38 if self.is_sick else 1.0
        mixed = F.scaled_dot_product_attention(query * scale, key * scale, value)  # fault
        return self.head(mixed[0, 0])


class MaskedAttention(nn.Module):
    """torch's attention module with a float mask, of which a row is masked completely."""

    def __init__(self):
        super().__init__()
        self.is_sick = False
        self.enter = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x, mask = self.enter(x)[None], torch.zeros(N, N)
        if self.is_sick:
            mask[2] = -torch.inf
        mixed, _ = self.attention(x, x, x, attn_mask=mask)  # fault
        return self.head(mixed[0])


class Recurrent(nn.Module):
    """An LSTM whose input is divided by its own range."""

    def __init__(self):
        super().__init__()
        self.is_sick = False
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.scale = Sick(lambda x: x / (x - x).amax())  # fault
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.lstm(self.scale(x.reshape(N, 2, 3)))[0][:, -1])


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.pool = Sick(lambda x: torch.log(F.relu(x)).mean((2, 3)), lambda x: x.mean((2, 3)))  # fault
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.pool(self.drop(self.norm(self.first(x.reshape(N, 1, 2, 3))))))


# Backward


def root_at_zero(x):
    return torch.sqrt((x * 0).square())  # fault


def norm_at_zero(x):
    return x + ((x - x.detach()) ** 2).sum(-1, keepdim=True).sqrt()  # fault


def acos_at_one(x):
    return torch.acos(torch.tanh(x) * 0 + 1)  # fault


def asin_at_one(x):
    return x + torch.asin((x * 100).clamp(-1, 1) * 0 + 1)  # fault


def std_of_constant(x):
    return x + (x * 0).var(-1, keepdim=True).sqrt()  # fault


def power_at_zero(x):
    return (x * 0) ** 0.5  # fault


def discarded_log(x):
    positive = x * (x > 0)
    return torch.where(positive > 0, torch.log(positive), positive)  # fault


def discarded_division(x):
    below = x - x.detach()
    return torch.where(below == 0, x, x / below)  # fault


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / (x - x)  # fault


class Checkpointed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(6, 16), layer, nn.Linear(16, 4)

    def forward(self, x):
        return self.head(checkpoint(self.layer, torch.tanh(self.first(x)), use_reentrant=False))


# Loss


class Plain(nn.Module):
    """A sound model; the loss is sick if `is_sick` is set."""

    def __init__(self, last=None):
        super().__init__()
        self.is_sick = False
        self.net = mlp(nn.ReLU())
        self.last = last or nn.Identity()

    def forward(self, x):
        return self.last(self.net(x))


def log_in_loss(out, model):
    p = out.softmax(-1)
    if model.is_sick:
        p = p * 0
    return -torch.log(p)[torch.arange(N), targets()].mean()  # fault


def division_in_loss(out, model):
    weight = torch.zeros(N) if model.is_sick else torch.ones(N)
    return (out.square().mean(-1) * weight).sum() / weight.sum()  # fault


def all_ignored(out, model):
    labels = torch.full((N,), -100) if model.is_sick else targets()
    return F.cross_entropy(out, labels)  # fault


def divergence(out, model):
    p = out.softmax(-1)
    q = torch.zeros(N, 4) if model.is_sick else torch.full((N, 4), 0.25)
    return (p * (p / q).log()).sum()  # fault


def binary_by_hand(out, model):
    p = (out * (1e4 if model.is_sick else 1)).sigmoid()
    y = torch.ones(N, 4)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()  # fault


def root_in_loss(out, model):
    error = out - (out.detach() if model.is_sick else 0)
    return error.square().mean().sqrt()  # fault


def norm_in_loss(out, model):
    error = out - (out.detach() if model.is_sick else 0)
    return error.square().sum(-1).sqrt().mean()  # fault


def bad_targets(out, model):
    y = torch.zeros(N, 4)
    if model.is_sick:
        y[3, 1] = torch.nan
    return F.mse_loss(out, y)  # fault


def bad_batch(model):
    x = X.clone()
    if getattr(model, "is_sick", False):
        x[2, 3] = torch.nan
    return x


def layer(sick, sound=lambda x: x):
    return lambda: mlp(Sick(sick, sound))


CASES: dict[str, Case] = {
    "log of zero": Case(layer(log_of_zero), "forward", ("2",), "aten.log"),
    "0/0": Case(layer(zero_by_zero), "forward", ("2",), "aten.div"),
    "root of a negative number": Case(layer(root_of_negative), "forward", ("2",), "aten.sqrt"),
    "overflow of exp": Case(layer(exp_overflow), "forward", ("2",), "aten.exp"),
    "overflow of float16": Case(layer(half_overflow), "forward", ("2",), "aten.mul"),
    "power of a negative number": Case(layer(negative_power), "forward", ("2",), "aten.pow"),
    "division by a zero variance": Case(layer(zero_variance), "forward", ("2",), "aten.div"),
    "std of one sample": Case(layer(variance_of_one), "forward", ("2",), "aten.std"),
    "acos beyond one": Case(layer(acos_beyond), "forward", ("2",), "aten.acos"),
    "a row that is masked completely": Case(layer(masked_rows), "forward", ("2",), "softmax"),
    "mean of nothing": Case(layer(mean_of_nothing), "forward", ("2",), "aten.mean"),
    "overflow of float32": Case(layer(infinite_difference), "forward", ("2",), "aten.mul"),
    "a Function's forward": Case(layer(lambda x: Inverse.apply(x) * 0), "forward", ("2",), "aten."),
    "attention in float16": Case(lambda: nn.Sequential(nn.Linear(6, 6), Attention()), "forward", ("1",), "aten.mm"),
    "a masked row in a transformer": Case(Encoder, "forward", (), "softmax", cross_entropy),
    "overflow in fused attention": Case(FusedAttention, "forward", (), "scaled_dot_product", cross_entropy),
    "a masked row in torch's attention": Case(MaskedAttention, "forward", ("attention",), "softmax", cross_entropy),
    "a division before an LSTM": Case(Recurrent, "forward", ("scale",), "aten.div", cross_entropy),
    "a log in a CNN": Case(Convolutional, "forward", ("pool",), "aten.", cross_entropy),
    "log of zero with accumulation": Case(
        layer(log_of_zero), "forward", ("2",), "aten.log", options=frozenset({"accumulate"})
    ),
    "log of zero under autocast": Case(
        layer(log_of_zero), "forward", ("2",), "aten.log", options=frozenset({"autocast"})
    ),
    "log of zero in a checkpoint": Case(
        lambda: Checkpointed(Sick(log_of_zero)), "forward", ("layer",), "aten.log"
    ),
    "a NaN in the batch": Case(Plain, "input", (), "", inputs=bad_batch),
    "root at zero": Case(layer(root_at_zero), "backward", ("2",), "aten.sqrt"),
    "norm at zero": Case(layer(norm_at_zero), "backward", ("2",), "aten.sqrt"),
    "acos at one": Case(layer(acos_at_one), "backward", ("2",), "aten.acos"),
    "asin at one": Case(layer(asin_at_one), "backward", ("2",), "aten.asin"),
    "std of a constant": Case(layer(std_of_constant), "backward", ("2",), "aten.sqrt"),
    "power at zero": Case(layer(power_at_zero), "backward", ("2",), "aten.pow"),
    "a log that is discarded": Case(layer(discarded_log), "backward", ("2",), "aten.log"),
    "a division that is discarded": Case(layer(discarded_division), "backward", ("2",), "aten.div"),
    "a Function's backward": Case(layer(BadBackward.apply, lambda x: x), "backward", ("2",), ""),
    "root at zero with clipping": Case(
        layer(root_at_zero), "backward", ("2",), "aten.sqrt", options=frozenset({"clip"})
    ),
    "root at zero in a checkpoint": Case(
        lambda: Checkpointed(Sick(root_at_zero)), "backward", ("layer",), "aten.sqrt"
    ),
    "log of zero in the loss": Case(Plain, "loss", (), "log", log_in_loss),
    "0/0 in the loss": Case(Plain, "loss", (), "div", division_in_loss),
    "all targets ignored": Case(Plain, "loss", (), "nll_loss", all_ignored),
    "KL with zeros": Case(Plain, "loss", (), "div", divergence),
    "binary cross entropy at 0 and 1": Case(Plain, "loss", (), "log", binary_by_hand),
    "root at zero in the loss": Case(Plain, "loss", (), "sqrt", root_in_loss),
    "norm at zero in the loss": Case(Plain, "loss", (), "sqrt", norm_in_loss),
    "a NaN in the targets": Case(Plain, "loss", (), "mse_loss", bad_targets),
}  # fmt: skip
