"""`FactsOfSteps`: what is known of an observed step besides its statistics, so that two runs can be compared.

With `attach(digest=True)` these facts are gathered in each observed step, and the model's inputs are recorded.
Otherwise only the facts that cost nothing are gathered, in the first steps, for the check of resumed runs. Nothing is
changed: the states of random generators are read and never set.
"""

import hashlib
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch.optim import Optimizer

from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.budget import OBSERVED_AT_START
from gradscope.hooks import ModelInputHook, has_compiled, hidden_from_modes
from gradscope.observe import digest_of
from gradscope.protocol import StepFacts

__all__ = ["FactsOfSteps"]

_NUMBERS = 64
"""The maximum number of hyperparameters that are sent."""

_DIGEST_BYTES = 8
_KEPT = 64


class FactsOfSteps(StepPlugin):
    """Gathers the facts of each observed step. `take` returns them once."""

    name = "gathering facts for comparing runs"
    needs_observed = True

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._engine = engine
        self._has_digest = run.settings.has_digest
        self._first_step = run.counter.step
        self._hook = ModelInputHook(engine.tracker.owns, self._on_inputs)
        self._step = -1
        self._has_facts = False
        self._stepped: list[Optimizer] = []
        self._states: int | None = None
        self._digests: dict[str, bytes] = {}
        self._has_optimizer_digest = False
        self._facts: dict[int, StepFacts] = {}

    def take(self, step: int) -> StepFacts | None:
        """Return the facts of an observed step; None if they were not gathered.

        Statistics on the host are complete before the step's plugins end, those on a device later.
        """
        return self._gathered() if step == self._step else self._facts.pop(step, None)

    def next_active_step(self, step: int) -> int | None:  # noqa: ARG002 - the signature of a plugin
        """Return None: only observed steps matter."""
        return None

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Install the hook that reads the random states and the inputs before the first forward."""
        self._step = step
        self._stepped.clear()
        self._states, self._digests = None, {}
        self._has_facts = is_observed and (
            self._has_digest or step < self._first_step + OBSERVED_AT_START
        )
        if self._has_facts and self._has_digest:
            if has_compiled():  # a compiled graph must not see hooks come and go
                self._read_random_states()
            else:
                self._hook.install()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Count the parameters with optimizer state; the first time also compute the digest of the state."""
        if not self._has_facts or any(each is optimizer for each in self._stepped):
            return
        self._stepped.append(optimizer)
        self._states = (self._states or 0) + sum(bool(state) for state in optimizer.state.values())
        if self._has_digest and not self._has_optimizer_digest:
            digest = _digest_of_state(optimizer)
            if digest is not None:
                self._digests[f"optimizer.{len(self._stepped) - 1}"] = digest

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - as above
        """Keep the facts of the step until its statistics are published."""
        self._hook.remove()
        facts = self._gathered() if is_observed else None  # None: already published
        if facts is not None:
            self._facts[step] = facts
        while len(self._facts) > _KEPT:  # a step whose statistics could not be read
            del self._facts[min(self._facts)]

    def close(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def _on_inputs(self, arguments: Any) -> None:  # Any: a module may take any arguments
        if not self._digests:
            self._read_random_states()
        self._engine.record_inputs(arguments)

    def _read_random_states(self) -> None:
        try:
            with hidden_from_modes():
                self._digests = {f"random.{name}": digest for name, digest in _random_states()}
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._run.faults.report("reading random states", error, "They are not recorded.")

    def _gathered(self) -> StepFacts | None:
        if not self._has_facts:
            return None
        self._has_facts = False
        self._has_optimizer_digest |= bool(self._stepped)
        return StepFacts(
            start_step=self._run.settings.start_step,
            settings=_settings(),
            hyperparameters=dict(list(_hyperparameters(self._stepped))[:_NUMBERS]),
            eval_layers=self._eval_layers(),
            optimizer_state=self._states,
            digests=self._digests,
        )

    def _eval_layers(self) -> tuple[int, ...]:
        """Return the layers in eval mode, by index."""
        modules = self._engine.tracker.modules()
        return tuple(
            i
            for i, name in enumerate(self._engine.tracker.names)
            if name in modules and not modules[name].training
        )


def _settings() -> dict[str, str]:
    """Return the settings of the process that change the rounding of results."""
    return {
        "threads": str(torch.get_num_threads()),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "cudnn.benchmark": str(torch.backends.cudnn.benchmark),
    }


def _hyperparameters(optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, float]]:
    """Yield the numbers in the parameter groups of optimizers: `lr`, or `lr of group 1`."""
    for i, optimizer in enumerate(optimizers):
        prefix = f"optimizer {i}: " if i else ""
        for g, group in enumerate(optimizer.param_groups):
            suffix = f" of group {g}" if g else ""
            for name, value in group.items():
                for key, number in _numbers_in(name, value):
                    yield f"{prefix}{key}{suffix}", number


def _numbers_in(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, torch.Tensor):
        if value.device.type == "cpu" and value.numel() == 1:
            yield name, float(value)
    elif isinstance(value, int | float):
        yield name, float(value)
    elif isinstance(value, tuple):
        for i, each in enumerate(value):
            yield from _numbers_in(f"{name}.{i}", each)


def _random_states() -> Iterator[tuple[str, bytes]]:
    """Yield the digests of the states of torch, of each CUDA device in use, of Python and of NumPy."""
    yield "torch", _digest(torch.get_rng_state().numpy().tobytes())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no annotation here
        for i in range(torch.cuda.device_count()):
            with suppress(RuntimeError):  # while a CUDA graph is captured
                yield f"cuda.{i}", _digest(torch.cuda.get_rng_state(i).numpy().tobytes())
    numbers = random.getstate()[1]  # the hash of a tuple of integers is the same in each process
    yield "python", hash(numbers).to_bytes(_DIGEST_BYTES, "little", signed=True)
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *others = numpy.random.get_state()
        yield "numpy", _digest(keys.tobytes() + repr((kind, others)).encode())


def _digest_of_state(optimizer: Optimizer) -> bytes | None:
    """Return a digest of all tensors and numbers of an optimizer's state; None for tensors on a device."""
    parts: list[bytes] = []
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state.get(parameter, {})
        for key in sorted(state, key=str):
            value = state[key]
            digest = digest_of(value) if isinstance(value, torch.Tensor) else repr(value)
            if isinstance(digest, torch.Tensor):
                return None
            parts.append(f"{key} {digest};".encode())
    return _digest(b"".join(parts))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
