"""Faults of how model, parameters, optimizers and modes are connected."""

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, AdamW, RMSprop

from benchmarks.faults import proofs
from benchmarks.faults.data import (
    CLASSES,
    FEATURES,
    N,
    images,
    numbers,
    sentences,
    sequences,
    tokens,
    vectors,
)
from benchmarks.faults.models import (
    VAE,
    Adapted,
    Experts,
    Recurrent,
    ResNet,
    Transformer,
    adversaries,
    cnn,
    mlp,
)
from benchmarks.faults.program import Parts, Sick, sick, train

__all__ = ["WIRING"]


def _left_out(layer: str, make: type[nn.Module] | functools.partial[nn.Module], data: object) -> object:
    """Return a program whose optimizer lacks the parameters of a layer."""

    def program(is_sick: bool) -> Parts:
        model = make()
        held = [p for name, p in model.named_parameters() if not (is_sick and name.startswith(layer))]
        return train(model, data, optimizer=Adam(held, 3e-3))

    return program


class _Listed(nn.Module):
    """Layers in a list of Python: the model does not know them."""

    def __init__(self, *, is_sick: bool) -> None:
        super().__init__()
        layers = [nn.Linear(FEATURES, FEATURES) for _ in range(3)]
        self.layers = layers if is_sick else nn.ModuleList(layers)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out


def _listed(is_sick: bool) -> Parts:
    model = _Listed(is_sick=is_sick)
    start = [p.detach().clone() for layer in model.layers for p in layer.parameters()]

    def change() -> float:
        now = [p for layer in model.layers for p in layer.parameters()]
        return sum(float((one - other).norm()) for one, other in zip(now, start, strict=True))

    return train(model, vectors, measure=change)


def _adapter_added_late(is_sick: bool) -> Parts:
    model, grown = Adapted(), Adapted()
    del model.lora_a, model.lora_b
    early = AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    model.lora_a, model.lora_b = grown.lora_a, grown.lora_b
    late = AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    return train(model, vectors, optimizer=early if is_sick else late)


def _replaced_head(is_sick: bool) -> Parts:
    model = cnn()
    early = SGD(model.parameters(), 0.05)
    model[9] = nn.Linear(32, CLASSES)
    return train(model, images, optimizer=early if is_sick else SGD(model.parameters(), 0.05))


def _loaded_with_assign(is_sick: bool) -> Parts:
    model = Recurrent()
    early = Adam(model.parameters(), 3e-3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=is_sick)
    return train(model, sequences, optimizer=early)


def _copied_model(is_sick: bool) -> Parts:
    built = ResNet()
    optimizer = SGD(built.parameters(), 0.05, momentum=0.9)
    return train(copy.deepcopy(built) if is_sick else built, images, optimizer=optimizer)


def _head_in_two(is_sick: bool) -> Parts:
    model = mlp()
    body = list(model.parameters()) if is_sick else list(model.parameters())[:-2]
    start = copy.deepcopy(model[4].weight)
    head = SGD(model[4].parameters(), 0.5)
    changes: list[float] = []
    parts = train(model, vectors, optimizer=Adam(body, 3e-3))

    def count(_step: int) -> None:
        holding = [
            each
            for each in (parts.optimizers[0], head)
            for g in each.param_groups
            for p in g["params"]
            if p is model[4].weight
        ]
        changes.append(float(len(holding)))

    del start
    return Parts(
        model, [parts.optimizers[0], head], parts.loss, after=count, measure=proofs.mean_of(changes)
    )


def _gan(is_sick: bool, *, shared: bool = False, clears: bool = True) -> Parts:
    """A GAN whose optimizers share the discriminator, or one of whose optimizers never clears."""
    model = adversaries()
    generator, discriminator = model["generator"], model["discriminator"]
    first = Adam(model.parameters() if is_sick and shared else generator.parameters(), 2e-3)
    second = Adam(discriminator.parameters(), 2e-3)
    changes: list[float] = []

    def step(_step: int) -> Tensor:
        real, noise = torch.randn(N, 4) * 0.5 + 1, torch.randn(N, 8)
        if not is_sick or clears:
            second.zero_grad()
        fake = generator(noise)
        one = F.binary_cross_entropy_with_logits(discriminator(real), torch.ones(N, 1))
        zero = F.binary_cross_entropy_with_logits(discriminator(fake.detach()), torch.zeros(N, 1))
        (one + zero).backward()
        second.step()
        before = discriminator[4].weight.detach().clone()
        first.zero_grad()
        loss = F.binary_cross_entropy_with_logits(discriminator(fake), torch.ones(N, 1))
        loss.backward()
        first.step()
        changes.append(float((discriminator[4].weight - before).norm()))
        return loss

    gradient = discriminator[0].weight

    def size() -> float:
        return float(gradient.grad.norm()) if gradient.grad is not None else 0.0

    return Parts(model, [first, second], step=step, measure=proofs.mean_of(changes) if shared else size)


def _frozen_inside(is_sick: bool) -> Parts:
    model = Transformer()
    model.blocks[1].linear1.requires_grad_(not is_sick)
    return train(model, tokens)


def _never_unfrozen(is_sick: bool) -> Parts:
    model = ResNet()
    model.blocks[1].requires_grad_(not is_sick)
    return train(model, images, optimizer=SGD(model.parameters(), 0.05, momentum=0.9))


def _never_zeroed(is_sick: bool) -> Parts:
    model = mlp()
    return train(model, vectors, optimizer=SGD(model.parameters(), 0.1), zeroes=not is_sick)


def _never_zeroed_rnn(is_sick: bool) -> Parts:
    model = Recurrent(nn.GRU)
    return train(model, sequences, optimizer=RMSprop(model.parameters(), 3e-3), zeroes=not is_sick)


def _one_never_zeroed(is_sick: bool) -> Parts:
    model = Recurrent()
    body, head = SGD(model.rnn.parameters(), 0.2), SGD(model.head.parameters(), 0.2)
    loss = train(model, sequences).loss
    clears = [head] if is_sick else [body, head]

    def before(_step: int) -> None:
        for optimizer in clears:
            optimizer.zero_grad()

    return Parts(model, [body, head], loss, before=before, zeroes=False)


def _validated(model: nn.Module, data: object, at: int, *, is_sick: bool) -> Parts:
    """A program that does not return to training mode after a validation."""
    kept: list[float] = []

    def validate(step: int) -> None:
        if step == at:
            model.eval()
            with torch.no_grad():
                model(data()[0])
            model.train(not is_sick)
        kept[:] = [float(model.training)]

    return train(model, data, before=validate, measure=proofs.mean_of(kept))


def _tiny_batch(is_sick: bool) -> Parts:
    model = nn.Sequential(
        nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES)
    )
    return train(model, functools.partial(vectors, 2 if is_sick else N))


class _Pyramid(nn.Module):
    """A branch that pools the image to one pixel and normalizes over the batch (as in ASPP)."""

    def __init__(self, normalization: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pooled = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), normalization, nn.ReLU()
        )
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        out: Tensor = self.head(torch.cat([hidden, self.pooled(hidden).expand_as(hidden)], 1))
        return out


def _pooled_norm(is_sick: bool) -> Parts:
    model = _Pyramid(nn.BatchNorm2d(8) if is_sick else nn.GroupNorm(2, 8))

    def data() -> tuple[Tensor, Tensor]:
        x, _ = images(2)
        return x, x * 0.5 + x.mean((1, 2, 3), keepdim=True)

    def spread() -> float:
        x = data()[0]
        model.train()
        with torch.no_grad():
            normalized = model.pooled[:3](model.body(x))
        return float((normalized.abs() - normalized.abs().mean()).abs().mean())

    return train(model, data, F.mse_loss, measure=spread)


def _strong_dropout(is_sick: bool) -> Parts:
    model = nn.Sequential(
        nn.Linear(FEATURES, 64), nn.ReLU(), nn.Dropout(0.95 if is_sick else 0.1), nn.Linear(64, CLASSES)
    )
    return train(model, vectors)


def _strong_dropout_transformer(is_sick: bool) -> Parts:
    model = Transformer(drop=0.95 if is_sick else 0.1)
    return train(model, tokens, optimizer=Adam(model.parameters(), 1e-2))


def _strong_dropout_lstm(is_sick: bool) -> Parts:
    return train(Recurrent(num_layers=2, dropout=0.95 if is_sick else 0.1), sequences)


def _untied(is_sick: bool) -> Parts:
    model = Transformer(language=True, tied=True)

    def untie(step: int) -> None:
        if is_sick and step == 2:
            model.head.weight = nn.Parameter(model.head.weight.detach().clone())

    return train(
        model, sentences, before=untie, measure=lambda: float(model.head.weight is model.embed.weight)
    )


def _untied_by_loading(is_sick: bool) -> Parts:
    model = Transformer(language=True, tied=True)

    def load(step: int) -> None:
        if step == 3:
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            model.load_state_dict(state, assign=is_sick)
            optimizers[0].param_groups[0]["params"][:] = list(model.parameters())

    optimizers = [Adam(model.parameters(), 3e-3)]
    return train(
        model,
        sentences,
        optimizer=optimizers[0],
        before=load,
        measure=lambda: float(model.head.weight is model.embed.weight),
    )


# Where the graph is cut.


def _detached(is_sick: bool) -> Parts:
    return train(Recurrent(between=Tensor.detach if is_sick else None), sequences)


class _NoGradEncoder(nn.Module):
    """An autoencoder whose encoder runs without a graph: under no_grad, or through NumPy."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(outputs=4), mlp(inputs=4, outputs=FEATURES)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.way != "no_grad"):
            code = self.encoder(x)
        if self.way == "numpy":
            code = torch.from_numpy(code.detach().numpy().round(3))
        out: Tensor = self.decoder(code)
        return out


def _cut_encoder(way: str) -> object:
    def program(is_sick: bool) -> Parts:
        model = _NoGradEncoder(way if is_sick else "")
        return train(model, lambda: (vectors()[0],) * 2, F.mse_loss)

    return program


class _Unused(Transformer):
    """The blocks run, but the head reads the embeddings."""

    def __init__(self, *, is_sick: bool) -> None:
        super().__init__()
        self.is_sick = is_sick

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.encode(tokens)
        out: Tensor = self.head((self.embed(tokens) if self.is_sick else hidden).mean(1))
        return out


def _hard_router(is_sick: bool) -> Parts:
    return train(Experts(weighted=not is_sick), vectors)


class _ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = mlp(outputs=CLASSES), mlp(outputs=1)


def _bandit(chosen: Tensor, best: Tensor) -> Tensor:
    return (chosen == best).float()


def _policy_without_gradient(is_sick: bool) -> Parts:
    model = _ActorCritic()

    def loss(_step: int) -> Tensor:
        x, best = vectors()
        logits, value = model.actor(x), model.critic(x)[:, 0]
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        reward = _bandit(action, best)
        score = policy.log_prob(action)
        if is_sick:
            score = torch.tensor(score.tolist())
        return -(score * (reward - value.detach())).mean() + F.mse_loss(value, reward)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _frozen_vae(is_sick: bool) -> Parts:
    """The layer of the variance in a VAE is frozen."""
    model = VAE()
    model.log_variance.requires_grad_(not is_sick)

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        out, mean, log_variance = model(x)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return F.mse_loss(out, x, reduction="sum") / N + 0.1 * divergence

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _left_out_regression(is_sick: bool) -> Parts:
    model = mlp(outputs=1, act=nn.Tanh)
    held = [*model[0].parameters(), *model[4].parameters()] if is_sick else list(model.parameters())
    return train(model, numbers, F.mse_loss, torch.optim.Adagrad(held, 0.05))


_MLP = functools.partial(mlp)

WIRING: tuple[Sick, ...] = (
    sick(
        "the head is in no optimizer",
        "not-in-optimizer",
        "4",
        _left_out("4", _MLP, vectors),
        proofs.moved("4"),
    ),
    sick(
        "a block of a transformer is in no optimizer",
        "not-in-optimizer",
        "blocks.1 blocks.1.self_attn",
        _left_out("blocks.1", Transformer, tokens),
        proofs.moved("blocks.1"),
    ),
    sick(
        "a layer is forgotten in a list of groups",
        "not-in-optimizer",
        "2",
        _left_out_regression,
        proofs.moved("2"),
    ),
    sick(
        "layers in a Python list",
        "not-in-optimizer",
        "layers.0 layers[0] layers layers.2 layers[2] head",
        _listed,
        proofs.lower("change of the listed layers", 1),
    ),
    sick(
        "an adapter is added after the optimizer",
        "not-in-optimizer",
        "lora_a lora_b",
        _adapter_added_late,
        proofs.moved("lora_b"),
    ),
    sick(
        "the head was replaced after the optimizer",
        "stale-optimizer",
        "9",
        _replaced_head,
        proofs.moved("9"),
    ),
    sick(
        "a checkpoint is loaded with assign=True",
        "stale-optimizer",
        "rnn head",
        _loaded_with_assign,
        proofs.moved(""),
    ),
    sick(
        "the model was copied after the optimizer",
        "stale-optimizer no-update",
        "stem norm",
        _copied_model,
        proofs.moved(""),
    ),
    sick(
        "the head is in two optimizers",
        "in-two-optimizers",
        "4",
        _head_in_two,
        proofs.higher("optimizers of the head", 1.5),
    ),
    sick(
        "the generator's optimizer has the discriminator too",
        "in-two-optimizers",
        "discriminator.0 discriminator.2 discriminator.4",
        functools.partial(_gan, shared=True),
        proofs.higher("change of the discriminator in the generator's step", 10),
    ),
    sick(
        "a layer inside a block is frozen",
        "frozen",
        "blocks.1.linear1",
        _frozen_inside,
        proofs.moved("blocks.1.linear1"),
    ),
    sick(
        "a stage of a ResNet stays frozen",
        "frozen",
        "blocks.1.conv1 blocks.1.norm1",
        _never_unfrozen,
        proofs.moved("blocks.1.conv1"),
    ),
    sick(
        "the variance of a VAE is frozen",
        "frozen",
        "log_variance",
        _frozen_vae,
        proofs.moved("log_variance"),
    ),
    sick(
        "zero_grad is missing in a GRU with RMSprop",
        "never-zeroed",
        "",
        _never_zeroed_rnn,
        proofs.gradient_growth("", 3),
    ),
    sick(
        "one of two optimizers never zeroes",
        "never-zeroed",
        "rnn",
        _one_never_zeroed,
        proofs.gradient_growth("rnn", 3),
    ),
    sick(
        "the discriminator's gradients are never zeroed",
        "never-zeroed",
        "discriminator.0 discriminator.2 discriminator.4 discriminator",
        functools.partial(_gan, clears=False),
        proofs.higher("gradient of the discriminator", 3),
    ),
    sick(
        "eval mode after a validation",
        "eval-mode",
        "1 4 8",
        lambda s: _validated(cnn(), images, 0, is_sick=s),
        proofs.lower("training mode", 2),
    ),
    sick(
        "eval mode after a validation at step 40",
        "eval-mode",
        "blocks.0.dropout blocks.0.dropout1 blocks.0 blocks.0.self_attn",
        lambda s: _validated(Transformer(), tokens, 40, is_sick=s),
        proofs.lower("training mode", 2),
    ),
    sick(
        "BatchNorm with a batch of two",
        "batchnorm-batch-size-one",
        "1",
        _tiny_batch,
        proofs.higher_loss(1.3),
    ),
    sick(
        "BatchNorm after a pooling to one pixel",
        "batchnorm-batch-size-one",
        "pooled.2",
        _pooled_norm,
        proofs.lower("spread of the size of normalized values", 3),
    ),
    sick(
        "dropout of 0.95 in a transformer",
        "dropout-too-strong",
        "blocks.0.dropout blocks.0.dropout1 blocks.0.self_attn blocks.0",
        _strong_dropout_transformer,
        proofs.higher_loss(1.5),
    ),
    sick(
        "dropout of 0.95 between the layers of an LSTM",
        "dropout-too-strong",
        "rnn",
        _strong_dropout_lstm,
        proofs.higher_loss(1.2),
    ),
    sick(
        "tied weights are untied",
        "tied-weights-broken",
        "embed head",
        _untied,
        proofs.lower("one tensor", 2),
    ),
    sick(
        "tied weights are untied by load_state_dict",
        "tied-weights-broken",
        "embed head",
        _untied_by_loading,
        proofs.lower("one tensor", 2),
    ),
    sick(
        "detach between LSTM and head", "no-gradient", "rnn", _detached, proofs.without_gradient("rnn")
    ),
    sick(
        "an encoder under no_grad",
        "no-gradient",
        "encoder.0 encoder.2 encoder.4 encoder",
        _cut_encoder("no_grad"),
        proofs.without_gradient("encoder"),
    ),
    sick(
        "a code that went through NumPy",
        "no-gradient",
        "encoder.0 encoder.2 encoder.4 encoder",
        _cut_encoder("numpy"),
        proofs.without_gradient("encoder"),
    ),
    sick(
        "a transformer whose output is not used",
        "no-gradient",
        "blocks.0 blocks.0.self_attn position blocks.0.linear1 ",
        lambda s: train(_Unused(is_sick=s), tokens),
        proofs.without_gradient("blocks"),
    ),
    sick(
        "a router without gradient",
        "no-gradient",
        "router",
        _hard_router,
        proofs.without_gradient("router"),
    ),
    sick(
        "a policy whose log-probability is a new tensor",
        "no-gradient",
        "actor.0 actor.2 actor.4 actor",
        _policy_without_gradient,
        proofs.without_gradient("actor"),
    ),
    sick("zero_grad is missing", "never-zeroed", "", _never_zeroed, proofs.gradient_growth("", 3)),
    sick("dropout of 0.95", "dropout-too-strong", "2", _strong_dropout, proofs.higher_loss(1.5)),
)
"""All programs of this subject."""
