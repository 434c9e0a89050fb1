"""Sound programs whose losses and graphs look odd."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, AdamW, RMSprop

from benchmarks.faults.data import (
    CLASSES,
    FEATURES,
    LENGTH,
    N,
    binary,
    curve,
    images,
    numbers,
    sequences,
    tokens,
    vectors,
)
from benchmarks.faults.models import VAE, Attention, Flow, Recurrent, Transformer, adversaries, mlp
from benchmarks.faults.program import Parts, Program, train

__all__ = ["GRAPH"]


def _vae() -> Parts:
    model = VAE()

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        out, mean, log_variance = model(x)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return F.mse_loss(out, x, reduction="sum") / N + 0.5 * divergence

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _policy_gradient() -> Parts:
    """REINFORCE with a softmax in the model and a running baseline."""
    model, baseline = mlp(nn.Softmax(-1), act=nn.Tanh), [0.0]

    def loss(_step: int) -> Tensor:
        x, best = vectors()
        policy = torch.distributions.Categorical(model(x))
        action = policy.sample()
        reward = (action == best).float()
        baseline[0] += 0.05 * (float(reward.mean()) - baseline[0])
        return -(policy.log_prob(action) * (reward - baseline[0])).mean()

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _clipped_policy() -> Parts:
    """PPO: ratio against the old policy, a value, an entropy."""
    model = nn.ModuleDict(
        {"body": nn.Linear(FEATURES, 32), "policy": nn.Linear(32, CLASSES), "value": nn.Linear(32, 1)}
    )

    def loss(_step: int) -> Tensor:
        x, best = vectors()
        hidden = model["body"](x).tanh()
        policy = torch.distributions.Categorical(logits=model["policy"](hidden))
        action = policy.sample()
        value, reward = model["value"](hidden).squeeze(-1), (action == best).float()
        score = policy.log_prob(action)
        ratio, gain = (score - score.detach()).exp(), reward - value.detach()
        first = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        return first + 0.5 * (value - reward).square().mean() - 0.01 * policy.entropy().mean()

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _q_learning() -> Parts:
    """Q-learning with a target network that is updated in each 25th step."""
    model = nn.ModuleDict({"online": mlp()})
    model["target"] = copy.deepcopy(model["online"]).requires_grad_(False)

    def after(step: int) -> None:
        if step % 25 == 24:
            model["target"].load_state_dict(model["online"].state_dict())

    def loss(_step: int) -> Tensor:
        x, best = vectors()
        action = torch.randint(CLASSES, (N, 1))
        value = model["online"](x).gather(1, action)
        following = model["target"](vectors()[0]).max(1, keepdim=True)[0]
        wanted = (action[:, 0] == best).float()[:, None] + 0.5 * following
        return F.smooth_l1_loss(value, wanted)

    return Parts(model, [RMSprop(model["online"].parameters(), 1e-3)], loss, after=after)


def _distillation() -> Parts:
    teacher, model = mlp(), mlp()
    optimizer = Adam(teacher.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        x, y = vectors()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    teacher.requires_grad_(False).eval()
    both = nn.ModuleDict({"teacher": teacher, "student": model})

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        wanted, out = teacher(x), model(x)
        soft = F.kl_div(F.log_softmax(out / 2, 1), F.softmax(wanted / 2, 1), reduction="batchmean")
        return 4 * soft + F.cross_entropy(out, y)

    return Parts(both, [Adam(model.parameters(), 3e-3)], loss)


def _contrastive() -> Parts:
    """Cross entropy over the similarities of all pairs of a batch, in both directions."""
    model = mlp(outputs=8)

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        one, two = (F.normalize(model(x + 0.3 * torch.randn_like(x)), dim=1) for _ in range(2))
        logits = one @ two.T / 0.1
        return (
            F.cross_entropy(logits, torch.arange(N)) + F.cross_entropy(logits.T, torch.arange(N))
        ) / 2

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _siamese() -> Parts:
    """Distances of pairs, with a margin; half of the pairs give no gradient."""
    model = mlp(outputs=4)

    def loss(_step: int) -> Tensor:
        (x, a), (z, b) = vectors(), vectors()
        distance = (model(x) - model(z)).norm(dim=1)
        same = (a == b).float()
        return (same * distance.square() + (1 - same) * F.relu(1 - distance).square()).mean()

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _pair_distances() -> Parts:
    """Distances between all pairs of outputs against those of the inputs."""
    model = mlp(outputs=2)

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        out, wanted = model(x), torch.cdist(x[:, :2], x[:, :2])
        return (((out[:, None] - out[None]).square().sum(-1) + 1e-6).sqrt() - wanted).square().mean()

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _without_negatives() -> Parts:
    """SimSiam: one side is detached."""
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(
                nn.Linear(FEATURES, 32),
                nn.BatchNorm1d(32),
                nn.ReLU(),
                nn.Linear(32, 16),
                nn.BatchNorm1d(16, affine=False),
            ),
            "predictor": nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16)),
        }
    )

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        one, two = (model["encoder"](x + 0.1 * torch.randn_like(x)) for _ in range(2))
        p, q = model["predictor"](one), model["predictor"](two)
        return (
            -(F.cosine_similarity(p, two.detach()).mean() + F.cosine_similarity(q, one.detach()).mean())
            / 2
        )

    return Parts(model, [SGD(model.parameters(), 0.05, momentum=0.9)], loss)


def _flow() -> Parts:
    """A normalizing flow: a log-likelihood, which may fall below zero."""
    model = Flow()

    def loss(_step: int) -> Tensor:
        x = torch.randn(64, 4) * 0.05 + 1
        return -model(x).mean()

    return Parts(model, [Adam(model.parameters(), 1e-2)], loss)


def _density() -> Parts:
    """A mixture density: a negative log-likelihood below zero."""
    model = mlp(inputs=1, outputs=9)

    def loss(_step: int) -> Tensor:
        x, y = curve(64)
        weight, mean, log_scale = model(x).chunk(3, 1)
        parts = (
            F.log_softmax(weight, 1)
            - log_scale
            - 0.5 * ((y + 0.01 * torch.randn_like(y) - mean) / log_scale.exp()).square()
        )
        return -torch.logsumexp(parts, 1).mean()

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _diffusion() -> Parts:
    """Noise of many sizes is predicted from noisy points and the time."""
    model = mlp(inputs=3, outputs=2, act=nn.SiLU)

    def loss(_step: int) -> Tensor:
        t = torch.rand(128, 1)
        angle = torch.rand(128, 1) * 6.28
        x, noise = torch.cat([angle.cos(), angle.sin()], 1), torch.randn(128, 2)
        return F.mse_loss(model(torch.cat([(1 - t).sqrt() * x + t.sqrt() * noise, t], 1)), noise)

    return Parts(model, [AdamW(model.parameters(), 3e-3)], loss)


def _physics() -> Parts:
    """A differential equation of second order, u'' = -9 u with u(0) = 1 and u'(0) = 0."""
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def slope(y: Tensor, x: Tensor) -> Tensor:
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    def loss(_step: int) -> Tensor:
        x, zero = torch.rand(32, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
        u, start = model(x), model(zero)
        rest = slope(slope(u, x), x) + 9 * u
        return (
            rest.square().mean() * 0.01
            + (start - 1).square().mean()
            + slope(start, zero).square().mean()
        )

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _multiple_instances() -> Parts:
    """Attention weights over the 12 instances of one bag, which are dimension 0."""
    model = nn.ModuleDict(
        {"embed": mlp(outputs=16), "score": nn.Linear(16, 1), "head": nn.Linear(16, 1)}
    )

    def loss(_step: int) -> Tensor:
        total = torch.zeros(())
        for _ in range(8):
            bag = torch.randn(12, FEATURES)
            label = (torch.rand(1) > 0.5).float()
            bag[0, 0] += 4 * label[0]
            hidden = model["embed"](bag).relu()
            pooled = (hidden * model["score"](hidden).softmax(0)).sum(0)
            total = total + F.binary_cross_entropy_with_logits(model["head"](pooled), label)
        return total / 8

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


class _SequenceFirst(nn.Module):
    """Attention over dimension 0, which is time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = (
            nn.Linear(FEATURES, 16),
            nn.Linear(16, 1),
            nn.Linear(16, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.embed(x))
        out: Tensor = self.head((hidden * self.score(hidden).softmax(0)).sum(0))
        return out


def _time_first() -> Parts:
    def data() -> tuple[Tensor, Tensor]:
        x, _ = sequences()
        return x.transpose(0, 1), x[..., :CLASSES].mean(1).argmax(1)

    return train(_SequenceFirst(), data)


class _Pixels(nn.Module):
    """Class scores of each pixel, softmax over dimension 1, and a loss on probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Softmax(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def _dice() -> Parts:
    """The Dice loss, 1 - overlap, of probabilities."""

    def data() -> tuple[Tensor, Tensor]:
        x, _ = images(8)
        return x, (x[:, 0] > 1).float()

    def dice(out: Tensor, y: Tensor) -> Tensor:
        return 1 - 2 * (out[:, 1] * y).sum() / (out[:, 1].sum() + y.sum() + 1e-6)

    return train(_Pixels(), data, dice)


def _masked_attention() -> Parts:
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return train(Attention(mask=mask), sequences)


def _padded() -> Parts:
    """Sequences of different lengths with a padding mask and ignored labels."""
    model = Transformer()

    def loss(_step: int) -> Tensor:
        x, _ = tokens()
        pad = torch.arange(LENGTH)[None] >= torch.randint(2, LENGTH + 1, (N, 1))
        hidden = model.encode(x.masked_fill(pad, 0), src_key_padding_mask=pad)
        y = (x % CLASSES).masked_fill(pad, -100)
        return F.cross_entropy(model.head(hidden).transpose(1, 2), y, ignore_index=-100)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _tagging() -> Parts:
    """A label for each element; labels are flattened with the batch."""
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(20, 16),
            "rnn": nn.LSTM(16, 16, batch_first=True, bidirectional=True),
            "head": nn.Linear(32, CLASSES),
        }
    )

    def loss(_step: int) -> Tensor:
        x, _ = tokens()
        out = model["head"](model["rnn"](model["embed"](x))[0])
        return F.cross_entropy(out.flatten(0, 1), (x % CLASSES).flatten())

    return Parts(model, [Adam(model.parameters(), 1e-2)], loss)


class _Quantized(nn.Module):
    """VQ-VAE: codes are replaced by the nearest entry of a table; the gradient goes straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.table = (
            mlp(outputs=4),
            mlp(inputs=4, outputs=FEATURES),
            nn.Embedding(16, 4),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        nearest = self.table(torch.cdist(code, self.table.weight).argmin(1))
        commit = F.mse_loss(code, nearest.detach()) * 0.25 + F.mse_loss(nearest, code.detach())
        return self.decoder(code + (nearest - code).detach()), commit


def _quantized() -> Parts:
    model, centres = _Quantized(), 2 * torch.randn(8, FEATURES)

    def loss(_step: int) -> Tensor:
        x = centres[torch.randint(8, (N,))] + 0.3 * torch.randn(N, FEATURES)
        out, commit = model(x)
        return F.mse_loss(out, x) + commit

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


class _FakeQuantized(nn.Module):
    """Weights are rounded to 8 bits in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight
        rounded = weight + ((weight * 127).round() / 127 - weight).detach()
        out: Tensor = self.last(F.relu(F.linear(x, rounded, self.first.bias)))
        return out


class _Gumbel(nn.Module):
    """Discrete codes by the straight-through Gumbel softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(outputs=8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(F.gumbel_softmax(self.encoder(x), tau=1.0, hard=True))
        return out


def _bottleneck() -> Parts:
    """A linear autoencoder with a narrow code: principal components, on purpose."""
    model = nn.Sequential(nn.Linear(FEATURES, 4), nn.Linear(4, FEATURES))
    basis = torch.randn(4, FEATURES)
    return train(
        model, lambda: (torch.randn(N, 4) @ basis,) * 2, F.mse_loss, Adam(model.parameters(), 1e-2)
    )


def _separable() -> Parts:
    """Depthwise and pointwise convolutions with an activation after each pair."""
    layers: list[nn.Module] = []
    for channels in (1, 8):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, 8, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        ]
    return train(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES)), images
    )


class _Patches(nn.Module):
    """A vision transformer: patches are embedded, and attention projects them again."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.head = nn.Linear(16 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).flatten(1))
        return out


def _multi_head() -> Parts:
    """nn.MultiheadAttention directly after a linear embedding, with a linear head."""
    model = nn.ModuleDict(
        {
            "embed": nn.Linear(FEATURES, 16),
            "attention": nn.MultiheadAttention(16, 4, batch_first=True),
            "head": nn.Linear(16, CLASSES),
        }
    )

    def loss(_step: int) -> Tensor:
        x, y = sequences()
        hidden = model["embed"](x)
        return F.cross_entropy(model["head"](model["attention"](hidden, hidden, hidden)[0][:, -1]), y)

    return Parts(model, [Adam(model.parameters(), 1e-2)], loss)


def _rectified_targets() -> Parts:
    """Softplus and ReLU at the output for targets that are never negative."""

    def data() -> tuple[Tensor, Tensor]:
        x, y = numbers()
        return x, y.clamp_min(0) + 0.5

    return train(mlp(nn.Softplus(), outputs=1), data, F.mse_loss)


def _counts() -> Parts:
    """A Poisson regression with an unscaled sum as the loss."""

    def data() -> tuple[Tensor, Tensor]:
        x, _ = numbers()
        return x, torch.poisson((x[:, :1] * 0.5 + 1).exp())

    def likelihood(out: Tensor, y: Tensor) -> Tensor:
        return F.poisson_nll_loss(out, y, reduction="sum")

    return train(mlp(outputs=1), data, likelihood)


def _smoothed(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y, label_smoothing=0.1)


def _mixed_up() -> Parts:
    """Mixup: soft labels between two samples."""

    def data() -> tuple[Tensor, Tensor]:
        x, y = images()
        labels, order, share = F.one_hot(y, CLASSES).float(), torch.randperm(N), float(torch.rand(()))
        return share * x + (1 - share) * x[order], share * labels + (1 - share) * labels[order]

    return train(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES)), data
    )


def _auxiliary() -> Parts:
    """Two losses, one from a layer inside, with a small weight; the sum begins with the number 0."""
    model = nn.ModuleDict(
        {"one": mlp(outputs=16), "inner": nn.Linear(16, CLASSES), "two": mlp(inputs=16)}
    )

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        hidden = model["one"](x)
        losses = [
            F.cross_entropy(model["two"](hidden), y),
            0.3 * F.cross_entropy(model["inner"](hidden.relu()), y),
        ]
        return sum(losses)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _flooded() -> Parts:
    """The loss is kept above 0.1 by its absolute distance from there."""
    model = mlp()

    def criterion(out: Tensor, y: Tensor) -> Tensor:
        return (F.cross_entropy(out, y) - 0.1).abs() + 0.1

    return train(model, vectors, criterion)


def _ended(
    *last: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], data: object, outputs: int
) -> Parts:
    return train(mlp(*last, outputs=outputs), data, criterion)


def _masked_generation() -> Parts:
    """The generator's output goes through the discriminator's Sigmoid and BCELoss."""
    model = adversaries()
    model["discriminator"].append(nn.Sigmoid())
    first, second = (Adam(model[name].parameters(), 1e-3) for name in ("generator", "discriminator"))

    def step(_step: int) -> Tensor:
        fake, judge = model["generator"](torch.randn(N, 8)), model["discriminator"]
        second.zero_grad()
        (
            F.binary_cross_entropy(judge(torch.randn(N, 4) + 1), torch.ones(N, 1))
            + F.binary_cross_entropy(judge(fake.detach()), torch.zeros(N, 1))
        ).backward()
        second.step()
        first.zero_grad()
        loss = F.binary_cross_entropy(judge(fake), torch.ones(N, 1))
        loss.backward()
        first.step()
        return loss

    return Parts(model, [first, second], step=step)


def _dueling() -> Parts:
    """A value (N, 1) and advantages (N, 4) are added, minus their mean."""
    model = nn.ModuleDict(
        {
            "body": nn.Linear(FEATURES, 32),
            "value": nn.Linear(32, 1),
            "advantage": nn.Linear(32, CLASSES),
        }
    )

    def loss(_step: int) -> Tensor:
        x, best = vectors()
        hidden = model["body"](x).relu()
        advantage = model["advantage"](hidden)
        values = model["value"](hidden) + advantage - advantage.mean(1, keepdim=True)
        return (values - F.one_hot(best, CLASSES)).square().mean()

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


GRAPH: tuple[Program, ...] = (
    Program("a variational autoencoder", _vae),
    Program("a policy gradient over a softmax", _policy_gradient),
    Program("PPO", _clipped_policy),
    Program("Q-learning with a target network", _q_learning),
    Program("dueling Q-learning", _dueling),
    Program("distillation", _distillation),
    Program("a contrastive loss over the batch", _contrastive),
    Program("a siamese network with a margin", _siamese),
    Program("distances of all pairs", _pair_distances),
    Program("SimSiam", _without_negatives),
    Program("a normalizing flow", _flow),
    Program("a mixture density", _density),
    Program("a diffusion model", _diffusion),
    Program("a differential equation of second order", _physics),
    Program("attention over the instances of a bag", _multiple_instances),
    Program("attention over time in dimension 0", _time_first),
    Program("softmax over the channels of pixels and a Dice loss", _dice),
    Program("a causal mask of -inf", _masked_attention),
    Program("padding masks and ignored labels", _padded),
    Program("tags by a bidirectional LSTM", _tagging),
    Program("a quantized code with detach", _quantized),
    Program("weights rounded to 8 bits", lambda: train(_FakeQuantized(), vectors)),
    Program("a Gumbel softmax", lambda: train(_Gumbel(), vectors)),
    Program("a linear autoencoder with a narrow code", _bottleneck),
    Program("depthwise separable convolutions", _separable),
    Program("a vision transformer", lambda: train(_Patches(), images)),
    Program("attention after a linear embedding", _multi_head),
    Program("softplus at the output", _rectified_targets),
    Program("a Poisson regression with a sum loss", _counts),
    Program("label smoothing", lambda: train(Recurrent(), sequences, _smoothed)),
    Program("mixup", _mixed_up),
    Program("an auxiliary loss", _auxiliary),
    Program("a flooded loss", _flooded),
    Program(
        "Sigmoid before BCELoss",
        functools.partial(
            _ended, nn.Sigmoid(), criterion=F.binary_cross_entropy, data=binary, outputs=1
        ),
    ),
    Program(
        "LogSoftmax before NLLLoss",
        functools.partial(
            _ended, nn.LogSoftmax(1), criterion=F.nll_loss, data=vectors, outputs=CLASSES
        ),
    ),
    Program(
        "LogSoftmax before cross entropy",
        functools.partial(
            _ended, nn.LogSoftmax(1), criterion=F.cross_entropy, data=vectors, outputs=CLASSES
        ),
    ),
    Program("a GAN with Sigmoid and BCELoss", _masked_generation),
)
"""All programs of this subject."""
