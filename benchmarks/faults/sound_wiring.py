"""Sound programs whose optimizers, frozen parts, modes and loops look odd."""

import copy
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, RMSprop, SparseAdam

from benchmarks.faults.data import (
    CLASSES,
    FEATURES,
    TOKENS,
    N,
    images,
    numbers,
    sentences,
    sequences,
    tokens,
    vectors,
)
from benchmarks.faults.models import (
    Adapted,
    Experts,
    Recurrent,
    ResNet,
    Transformer,
    adversaries,
    cnn,
    mlp,
    trainable,
)
from benchmarks.faults.program import Parts, Program, train

__all__ = ["WIRING"]


def _frozen_backbone() -> ResNet:
    """Return a ResNet of which only the head is trained, as after loading weights."""
    model = ResNet()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    return model


def _frozen_and_filtered() -> Parts:
    model = _frozen_backbone()
    return train(model, images, optimizer=Adam(trainable(model), 1e-2))


def _frozen_and_all() -> Parts:
    model = _frozen_backbone()
    return train(model, images, optimizer=SGD(model.parameters(), 0.05, momentum=0.9))


def _head_only() -> Parts:
    """The backbone is not frozen; the optimizer has the head only."""
    model = ResNet()
    return train(model, images, optimizer=Adam(model.head.parameters(), 1e-2))


class _FixedFeatures(nn.Module):
    """A backbone in eval mode under no_grad, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = mlp(nn.Dropout(0.5), outputs=FEATURES), nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.backbone.eval()
        with torch.no_grad():
            hidden = self.backbone(x)
        out: Tensor = self.head(hidden + x)
        return out


def _fixed_features() -> Parts:
    model = _FixedFeatures()
    return train(model, vectors, optimizer=Adam(model.head.parameters(), 1e-2))


def _gradual_unfreezing() -> Parts:
    """The last stage, then the whole model is trained; the optimizer grows by a group."""
    model = _frozen_backbone()
    optimizer = SGD(model.head.parameters(), 0.05)

    def before(step: int) -> None:
        if step == 30:
            model.blocks.requires_grad_(True)
            optimizer.add_param_group({"params": model.blocks.parameters(), "lr": 0.01})

    return train(model, images, optimizer=optimizer, before=before)


def _adapted() -> Parts:
    model = Adapted()
    return train(model, vectors, optimizer=AdamW(trainable(model), 1e-2))


class _LoRA(nn.Module):
    """A frozen linear layer with an adapter of its own."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(2, base.in_features) * 0.1)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.lora_a.T @ self.lora_b.T
        return out


def _lora_transformer() -> Parts:
    model = Transformer(drop=0.0).requires_grad_(False)
    for block in model.blocks:
        block.linear1 = _LoRA(block.linear1)
        block.linear2 = _LoRA(block.linear2)
    model.head.requires_grad_(True)
    model.blocks[0].self_attn.eval()
    return train(model, tokens, optimizer=AdamW(model.parameters(), 1e-2))


def _accumulated(every: int) -> Parts:
    """The optimizer steps after several backward passes."""
    model = Recurrent()
    optimizer = Adam(model.parameters(), 1e-2)

    def step(_step: int) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for _ in range(every):
            x, y = sequences(8)
            loss = F.cross_entropy(model(x), y) / every
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total

    return Parts(model, [optimizer], step=step)


def _accumulated_over_batches() -> Parts:
    """The optimizer steps in each fourth iteration of the loop; the loss is logged in each."""
    model = mlp()
    optimizer = SGD(model.parameters(), 0.2)

    def step(number: int) -> Tensor:
        x, y = vectors()
        loss = F.cross_entropy(model(x), y)
        (loss / 4).backward()
        if number % 4 == 3:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        return loss

    return Parts(model, [optimizer], step=step)


def _tied() -> Parts:
    model = Transformer(language=True, tied=True)
    return train(model, sentences, optimizer=AdamW(model.parameters(), 3e-3))


def _averaged() -> Parts:
    """A copy of the model with averaged weights is a part of the model that is watched."""
    model = nn.ModuleDict({"net": mlp()})
    model["average"] = copy.deepcopy(model["net"]).requires_grad_(False)

    def after(_step: int) -> None:
        with torch.no_grad():
            for kept, p in zip(model["average"].parameters(), model["net"].parameters(), strict=True):
                kept.lerp_(p, 0.05)

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        return F.cross_entropy(model["net"](x), y)

    return Parts(model, [Adam(model["net"].parameters(), 3e-3)], loss, after=after)


def _evaluated() -> Parts:
    """Every tenth step is followed by a validation with another batch size, in eval mode."""
    model = cnn(drop=0.5)

    def after(step: int) -> None:
        if step % 10 == 9:
            model.eval()
            with torch.no_grad():
                for _ in range(3):
                    model(images(50)[0])
            model.train()

    return train(model, images, after=after)


def _alternating_gan() -> Parts:
    model = adversaries()
    generator, discriminator = model["generator"], model["discriminator"]
    first = Adam(generator.parameters(), 1e-3, betas=(0.5, 0.9))
    second = Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.9))

    def step(_step: int) -> Tensor:
        real, noise = torch.randn(N, 4) * 0.5 + 1, torch.randn(N, 8)
        fake = generator(noise)
        second.zero_grad()
        one = F.binary_cross_entropy_with_logits(discriminator(real), torch.full((N, 1), 0.9))
        zero = F.binary_cross_entropy_with_logits(discriminator(fake.detach()), torch.zeros(N, 1))
        (one + zero).backward()
        second.step()
        first.zero_grad()
        loss = F.binary_cross_entropy_with_logits(discriminator(fake), torch.ones(N, 1))
        loss.backward()
        first.step()
        return loss

    return Parts(model, [first, second], step=step)


def _wasserstein(*, penalty: bool) -> Parts:
    """A critic with clipped weights or a gradient penalty; the generator steps after each third of its steps."""
    model = adversaries()
    generator, critic = model["generator"], model["discriminator"]
    first, second = RMSprop(generator.parameters(), 5e-4), RMSprop(critic.parameters(), 5e-4)

    def step(_step: int) -> Tensor:
        for _ in range(3):
            real, fake = torch.randn(N, 4) * 0.5 + 1, generator(torch.randn(N, 8)).detach()
            second.zero_grad()
            loss = critic(fake).mean() - critic(real).mean()
            if penalty:
                between = (0.5 * real + 0.5 * fake).requires_grad_()
                (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
                loss = loss + 10 * (slope.norm(dim=1) - 1).square().mean()
            loss.backward()
            second.step()
            if not penalty:
                with torch.no_grad():
                    for p in critic.parameters():
                        p.clamp_(-0.1, 0.1)
        first.zero_grad()
        loss = -critic(generator(torch.randn(N, 8))).mean()
        loss.backward()
        first.step()
        return loss

    return Parts(model, [first, second], step=step)


def _sharpness_aware() -> Parts:
    """SAM: a second backward pass at weights that were moved uphill."""
    model = mlp()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)

    def step(_step: int) -> Tensor:
        x, y = vectors()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
            moves = [0.05 * p.grad / norm for p in model.parameters() if p.grad is not None]
            for p, move in zip(model.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()
        return loss

    return Parts(model, [optimizer], step=step)


def _lbfgs() -> Parts:
    """Many evaluations of one batch in each step, which ends early once nothing is left to improve."""
    model = mlp(outputs=1, act=nn.Tanh, width=8).double()
    x, y = (each.double() for each in numbers(128))
    y = y + 0.3 * torch.randn_like(y)
    optimizer = LBFGS(model.parameters(), lr=0.5, max_iter=5, history_size=10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    def step(_step: int) -> Tensor:
        return optimizer.step(closure)

    return Parts(model, [optimizer], step=step)


def _scaled_from_high() -> Parts:
    """A loss scale of 2^30, with which the first steps overflow in float16 and are skipped."""
    model = mlp()
    optimizer, scaler = Adam(model.parameters(), 3e-3), torch.amp.GradScaler("cpu", init_scale=2.0**30)

    def step(_step: int) -> Tensor:
        x, y = vectors()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            out = model(x)
        loss = F.cross_entropy(out.float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return Parts(model, [optimizer], step=step)


def _master_copies() -> Parts:
    """A bf16 model whose optimizer has float32 copies, which are written back."""
    model = mlp().bfloat16()
    copies = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = Adam(copies, 3e-3)

    def step(_step: int) -> Tensor:
        x, y = vectors()
        loss = F.cross_entropy(model(x.bfloat16()).float(), y)
        loss.backward()
        for copied, p in zip(copies, model.parameters(), strict=True):
            copied.grad, p.grad = None if p.grad is None else p.grad.float(), None
        optimizer.step()
        with torch.no_grad():
            for copied, p in zip(copies, model.parameters(), strict=True):
                p.copy_(copied)
        return loss

    return Parts(model, [optimizer], step=step)


class _Tasks(nn.Module):
    """A body and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = mlp(outputs=16), nn.Linear(16, CLASSES), nn.Linear(16, 1)

    def forward(self, x: Tensor, task: int) -> Tensor:
        hidden = self.body(x).relu()
        out: Tensor = self.two(hidden) if task else self.one(hidden)
        return out


def _tasks(*, rare: bool) -> Parts:
    """Each step trains one of two tasks; `rare`: the second in each tenth step."""
    model = _Tasks()

    def loss(step: int) -> Tensor:
        x, y = vectors()
        if step % 10 == 9 if rare else step % 2:
            return F.mse_loss(model(x, 1), x[:, :1])
        return F.cross_entropy(model(x, 0), y)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _unused_head() -> Parts:
    """A second head that is computed for reports only."""
    model = _Tasks()
    trained = [*model.body.parameters(), *model.one.parameters()]

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        with torch.no_grad():
            model(x, 1)
        return F.cross_entropy(model(x, 0), y)

    return Parts(model, [Adam(trained, 3e-3)], loss)


def _sparse() -> Parts:
    """Embeddings with sparse gradients and an optimizer of their own; most rows are never used."""
    embed = nn.Embedding(1000, 16, sparse=True)
    model = nn.ModuleDict({"embed": embed, "head": mlp(inputs=16)})

    def loss(_step: int) -> Tensor:
        x, y = tokens()
        return F.cross_entropy(model["head"](model["embed"](x)[:, 0]), y)

    return Parts(
        model,
        [SparseAdam(list(embed.parameters()), 1e-2), Adam(model["head"].parameters(), 3e-3)],
        loss,
    )


def _momentum_encoder() -> Parts:
    """MoCo: keys from a slow copy of the encoder, negatives from a queue."""
    model = nn.ModuleDict({"query": mlp(outputs=8)})
    model["key"] = copy.deepcopy(model["query"]).requires_grad_(False)
    queue = [F.normalize(torch.randn(64, 8), dim=1)]

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        one = F.normalize(model["query"](x + 0.1 * torch.randn_like(x)), dim=1)
        with torch.no_grad():
            for slow, p in zip(model["key"].parameters(), model["query"].parameters(), strict=True):
                slow.lerp_(p, 0.01)
            two = F.normalize(model["key"](x + 0.1 * torch.randn_like(x)), dim=1)
        positive, negative = (one * two).sum(1, keepdim=True), one @ queue[0].T
        queue[0] = torch.cat([two, queue[0]])[:64]
        return F.cross_entropy(
            torch.cat([positive, negative], 1) / 0.2, torch.zeros(N, dtype=torch.long)
        )

    return Parts(model, [SGD(model["query"].parameters(), 0.1, momentum=0.9)], loss)


def _inner_loop() -> Parts:
    """MAML: the loss after a step on copies of the weights, through that step."""
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def loss(_step: int) -> Tensor:
        total = torch.zeros(())
        for _ in range(3):
            phase = torch.rand(1) * 0.5
            x, z = torch.rand(16, 1) * 4 - 2, torch.rand(16, 1) * 4 - 2
            weights = dict(model.named_parameters())
            first = F.mse_loss(torch.func.functional_call(model, weights, (x,)), (x + phase).sin())
            slopes = torch.autograd.grad(first, list(weights.values()), create_graph=True)
            moved = {name: w - 0.05 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
            total = total + F.mse_loss(
                torch.func.functional_call(model, moved, (z,)), (z + phase).sin()
            )
        return total / 3

    return Parts(model, [Adam(model.parameters(), 5e-3)], loss)


class _Generated(nn.Module):
    """A hypernetwork: the weights of a layer are the output of another."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.maker = nn.Parameter(torch.randn(8)), nn.Linear(8, 16 * FEATURES)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(self.code).view(16, FEATURES)
        out: Tensor = self.head(F.relu(F.linear(x, weight)))
        return out


def _frozen_norm() -> Parts:
    """BatchNorm is in eval mode and frozen, as in fine-tuning for detection."""
    model = cnn(drop=0.0)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    return train(model, images, optimizer=Adam(trainable(model), 3e-3))


def _normed_weights(kind: Callable[[nn.Module], nn.Module]) -> Parts:
    model = mlp()
    for position in (0, 2):
        model[position] = kind(model[position])
    return train(model, vectors)


def _body_and_head() -> Parts:
    """Two optimizers of different kinds for two parts."""
    model = Transformer(drop=0.0)
    head = SGD(model.head.parameters(), 0.1)
    body = AdamW([p for name, p in model.named_parameters() if not name.startswith("head")], 3e-3)
    return Parts(model, [body, head], train(model, tokens).loss)


def _no_decay_groups() -> Parts:
    model = Transformer(language=True)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    return train(
        model,
        sentences,
        optimizer=AdamW(
            [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], 3e-3
        ),
    )


def _tiny_with_group_norm() -> Parts:
    """A batch of two images with GroupNorm."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )
    return train(model, functools.partial(images, 2))


def _segmentation() -> Parts:
    """A batch of two with BatchNorm over many pixels."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )

    def data() -> tuple[Tensor, Tensor]:
        x, _ = images(2)
        return x, (x[:, 0] > 1).long()

    return train(model, data)


def _checkpointed() -> Parts:
    """Activations are computed again in backward."""
    model = ResNet()
    inner = [block.forward for block in model.blocks]
    for block, forward in zip(model.blocks, inner, strict=True):
        block.forward = functools.partial(
            torch.utils.checkpoint.checkpoint, forward, use_reentrant=False
        )
    return train(model, images, optimizer=SGD(model.parameters(), 0.05, momentum=0.9))


def _pretrained_vectors() -> Parts:
    """Fixed word vectors from elsewhere, in an optimizer with all parameters."""
    embed = nn.Embedding.from_pretrained(torch.randn(TOKENS, 16))
    model = nn.Sequential(embed, nn.Flatten(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    return train(model, tokens, optimizer=Adagrad(model.parameters(), 0.05))


def _resumed() -> Parts:
    """Model and optimizer are saved and loaded in step 20."""
    model = mlp()
    optimizer = Adam(model.parameters(), 3e-3)

    def before(step: int) -> None:
        if step == 20:
            state, kept = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
            model.load_state_dict(state)
            optimizer.load_state_dict(kept)

    return train(model, vectors, optimizer=optimizer, before=before)


def _last_batch() -> Parts:
    """Each tenth batch is smaller, and sequences have different lengths."""
    model = Recurrent(nn.GRU)
    count = iter(range(10**6))

    def data() -> tuple[Tensor, Tensor]:
        number = next(count)
        return sequences(5 if number % 10 == 9 else N, 3 + number % 5)

    return train(model, data)


def _changing_sizes() -> Parts:
    """Images of several sizes into a convolutional network with a global pooling."""
    sizes: Iterator[int] = iter([8, 12, 16] * 10**4)
    return train(cnn(), lambda: images(16, next(sizes)))


WIRING: tuple[Program, ...] = (
    Program("a frozen backbone, the optimizer has the head", _frozen_and_filtered),
    Program("a frozen backbone, all parameters in the optimizer", _frozen_and_all),
    Program("a backbone that is not frozen, the optimizer has the head", _head_only),
    Program("a backbone under no_grad in eval mode", _fixed_features),
    Program("a backbone that is unfrozen in step 30", _gradual_unfreezing),
    Program("LoRA next to a frozen layer", _adapted),
    Program("LoRA in a transformer, all parameters in the optimizer", _lora_transformer),
    Program("accumulation over four batches in a step", functools.partial(_accumulated, 4)),
    Program("accumulation over four iterations", _accumulated_over_batches),
    Program("a transformer with tied weights", _tied),
    Program("averaged weights", _averaged),
    Program("a validation after each tenth step", _evaluated),
    Program("a GAN", _alternating_gan),
    Program("a Wasserstein GAN with clipped weights", functools.partial(_wasserstein, penalty=False)),
    Program("a Wasserstein GAN with a gradient penalty", functools.partial(_wasserstein, penalty=True)),
    Program("SAM", _sharpness_aware),
    Program("LBFGS in float64", _lbfgs),
    Program("a loss scale that skips the first steps", _scaled_from_high),
    Program("a bf16 model with float32 copies", _master_copies),
    Program("tasks that alternate", functools.partial(_tasks, rare=False)),
    Program("a task in each tenth step", functools.partial(_tasks, rare=True)),
    Program("a head that is computed for reports only", _unused_head),
    Program("embeddings with sparse gradients", _sparse),
    Program("a momentum encoder", _momentum_encoder),
    Program("meta-learning with an inner loop", _inner_loop),
    Program("a hypernetwork", lambda: train(_Generated(), vectors)),
    Program("BatchNorm frozen in fine-tuning", _frozen_norm),
    Program("weight norm", lambda: _normed_weights(nn.utils.parametrizations.weight_norm)),
    Program("spectral norm", lambda: _normed_weights(nn.utils.parametrizations.spectral_norm)),
    Program("two optimizers for two parts", _body_and_head),
    Program("groups with and without weight decay", _no_decay_groups),
    Program("a batch of two with GroupNorm", _tiny_with_group_norm),
    Program("segmentation with a batch of two and BatchNorm", _segmentation),
    Program("activation checkpointing", _checkpointed),
    Program("fixed word vectors", _pretrained_vectors),
    Program("a checkpoint that is loaded in step 20", _resumed),
    Program("smaller last batches", _last_batch),
    Program("images of several sizes", _changing_sizes),
    Program("experts that are never chosen", lambda: train(Experts(starved=True), vectors)),
    Program("experts that are chosen in turn", lambda: train(Experts(), vectors)),
)
"""All programs of this subject."""
