"""A run without torch: the layers of a small GPT, and steps with numbers like those of a training.

`SyntheticRun` makes real protocol messages; `SyntheticSource` hands them out as a client would, in its
own process. Every number comes from the seed and the step, so that a test can say what it must be.
"""

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import numpy as np

from gradscope.columns import Block, Flags
from gradscope.errors import CommandRefusedError
from gradscope.protocol import (
    Ack,
    ActionInfo,
    ArgumentInfo,
    Backfill,
    BreakpointState,
    Command,
    Event,
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Message,
    Parameter,
    RuleState,
    RunInfo,
    Runs,
    Scalars,
    Step,
    pack_layers,
)
from gradscope.protocol.bodies import pack_block


def install(intervention, *layers, **fields):
    return Command(action="install", intervention=intervention, layers=layers, **fields)


KINDS = ("out", "grad", "param", "param_grad", "update")


def parameter(name, *shape):
    return Parameter(name, tuple(shape), "float32", True)


def gpt_layers(blocks=4, width=128):
    """The layers of a small GPT, in named_modules order."""
    linear = lambda name, rows, cols: Layer(  # noqa: E731
        name, "Linear", (parameter("weight", rows, cols), parameter("bias", rows))
    )
    norm = lambda name: Layer(name, "LayerNorm", (parameter("weight", width), parameter("bias", width)))  # noqa: E731
    layers = [
        Layer("", "GPT", is_watched=False),
        Layer("tokens", "Embedding", (parameter("weight", 65, width),)),
        Layer("positions", "Embedding", (parameter("weight", 128, width),)),
        Layer("blocks", "ModuleList", is_watched=False),
    ]
    for i in range(blocks):
        at = f"blocks.{i}"
        layers += [
            Layer(at, "Block"),
            norm(f"{at}.norm1"),
            Layer(f"{at}.attention", "CausalSelfAttention"),
            linear(f"{at}.attention.qkv", 3 * width, width),
            linear(f"{at}.attention.proj", width, width),
            norm(f"{at}.norm2"),
            Layer(f"{at}.mlp", "MLP"),
            linear(f"{at}.mlp.fc1", 4 * width, width),
            Layer(f"{at}.mlp.gelu", "GELU"),
            linear(f"{at}.mlp.fc2", width, 4 * width),
        ]
    return (*layers, norm("norm"), linear("head", 65, width))


_PLACES = ("output", "input", "params")
ACTIONS = (
    ActionInfo("reverse", "", "gradient", _PLACES, (ArgumentInfo("alpha", default=1.0),)),
    ActionInfo("scale", "", "gradient", _PLACES, (ArgumentInfo("factor"),)),
    ActionInfo(
        "clip",
        "",
        "gradient",
        _PLACES,
        (
            ArgumentInfo("max_norm", lowest=0.0),
            ArgumentInfo("per", kind="choice", chosen="tensor", options=("tensor", "layer", "all")),
        ),
    ),
    ActionInfo("clamp", "", "gradient", _PLACES, (ArgumentInfo("limit", lowest=0.0),)),
    ActionInfo("stop", "", "gradient", _PLACES),
    ActionInfo("noise", "", "gradient", _PLACES, (ArgumentInfo("std", lowest=0.0),)),
    ActionInfo("zero_activation", "", "value", ("output", "input")),
    ActionInfo(
        "amplify",
        "make it larger",
        "gradient",
        ("output",),
        (
            ArgumentInfo("gain", default=2.0, lowest=0.0, highest=10.0),
            ArgumentInfo("times", kind="whole", default=1.0),
            ArgumentInfo("is_off", kind="yes", default=0.0),
            ArgumentInfo("kind", kind="choice", chosen="sign", options=("sign", "same")),
        ),
        is_own=True,
    ),
)
"""The actions in the manifest: some of gradscope's, and one that the script defines."""


def normal_bins(seed, std):
    """The bins of 4,096 normal numbers for each deviation: 256 numbers, each counted 16 times."""
    x = np.random.default_rng((seed, 2)).normal(size=256) * std[:, None]
    places = np.clip(np.frexp(x)[1] + 46, 0, 63) + 64 * (x < 0)
    bins = np.zeros((len(std), 128), np.uint64)
    np.add.at(bins, (np.arange(len(std))[:, None], places), np.uint64(16))
    return bins


@dataclass
class SyntheticRun:
    """One run. `broken` maps a step to (layer, elements that are NaN) from that step on."""

    run: str = "gpt-7f3a"
    layers: tuple[Layer, ...] = field(default_factory=gpt_layers)
    seed: int = 0
    start_s: float = 1_700_000_000.0
    step_s: float = 0.1
    every: int = 1
    broken: dict[int, tuple[str, int]] = field(default_factory=dict)
    unmeasured: frozenset[str] = frozenset()
    is_full: bool = False

    def manifest(self, revision=1):
        body = pack_layers(self.layers)
        return Manifest(
            run=self.run,
            rank=0,
            revision=revision,
            model="GPT",
            device="cpu",
            measured_by="native avx2",
            layer_count=len(self.layers),
            actions=ACTIONS,
            body=body,
        )

    def block(self, step):
        rows = [
            (i, k)
            for i, layer in enumerate(self.layers)
            for k, kind in enumerate(KINDS)
            if (layer.is_watched if kind in ("out", "grad") else layer.parameters)
        ]
        layer, kind = np.array(rows, np.uint32).reshape(-1, 2).T
        noise = np.random.default_rng((self.seed, step)).lognormal(0, 0.12, len(rows))
        own = np.random.default_rng(self.seed).lognormal(0, 0.9, (len(self.layers), len(KINDS)))
        scale = np.array([0.9, 0.02, 0.05, 0.4, 4e-5])[kind] * own[layer, kind]
        fade = np.where(kind == 1, np.exp(-step / 400), 1.0)
        std = scale * fade * noise
        count = np.full(len(rows), 4096, np.uint64)
        nan = np.zeros(len(rows), np.uint64)
        for first, (name, elements) in self.broken.items():
            if step >= first:
                at = [lay.name for lay in self.layers].index(name)
                nan[(layer == at) & (kind <= 1)] = elements
        flags = np.zeros(len(rows), np.uint8)
        for i in np.flatnonzero(kind == 1):
            if self.layers[layer[i]].name in self.unmeasured:
                flags[i] = Flags.NOT_MEASURED
        finite = (count - nan).astype(np.float64)
        zero = np.zeros(len(rows), np.uint64)
        values = {
            "calls": np.ones(len(rows), np.uint64),
            "count": count,
            "nan": nan,
            "posinf": zero,
            "neginf": zero,
            "sum": 0.1 * std * finite,
            "sumsq": (std**2 + (0.1 * std) ** 2) * finite,
            "min": -3.1 * std,
            "max": 3.3 * std,
        }
        bins = None
        if self.is_full:
            values |= {"zero": zero, "subnormal": zero}
            bins = normal_bins(self.seed, std)
        return Block(KINDS, layer.astype(np.uint32), kind.astype(np.uint32), flags, values, bins)

    def step(self, step, *, seq=None, revision=1, block=None, time_s=None, dropped=0):
        block = block or self.block(step)
        columns, zero, body = pack_block(block)
        return Step(
            run=self.run,
            rank=0,
            seq=step if seq is None else seq,
            step=step,
            time_s=self.start_s + step * self.step_s if time_s is None else time_s,
            manifest_revision=revision,
            kinds=block.kinds,
            rows=len(block),
            columns=columns,
            zero=zero,
            step_time_s=self.step_s,
            every=self.every,
            cost=0.018,
            dropped=dropped,
            body=body,
        )

    def focus_step(self, step, *names, every=2):
        """The rows of some layers in that step."""
        whole = self.block(step)
        at = [i for i, layer in enumerate(self.layers) if layer.name in names]
        block = whole.taken(np.isin(whole.layer, at))
        columns, zero, body = pack_block(block)
        return Step(
            run=self.run,
            rank=0,
            seq=step,
            step=step,
            time_s=self.start_s + step * self.step_s,
            manifest_revision=1,
            kinds=block.kinds,
            rows=len(block),
            columns=columns,
            zero=zero,
            layers="focus",
            step_time_s=self.step_s,
            every=every,
            cost=0.004,
            body=body,
        )

    def loss(self, step):
        noise = np.random.default_rng((self.seed, step, 1)).normal(0, 0.03)
        return float(1.4 + 2.8 * np.exp(-step / 120) + noise)

    def scalars(self, *steps):
        return Scalars(
            run=self.run,
            rank=0,
            steps=steps,
            times_s=tuple(self.start_s + s * self.step_s for s in steps),
            values={
                "step_time_s": (self.step_s,) * len(steps),
                "loss": tuple(self.loss(s) for s in steps),
            },
        )

    def event(self, step, text, level="info"):
        return Event(
            run=self.run,
            rank=0,
            step=step,
            time_s=self.start_s + step * self.step_s,
            level=level,
            code="test",
            text=text,
        )

    def interventions(self, revision, step, *entries):
        return Interventions(run=self.run, rank=0, revision=revision, step=step, entries=entries)

    def info(self, *, is_live=True, step=None):
        return RunInfo(
            run=self.run,
            rank=0,
            world_size=1,
            host="here",
            pid=1,
            user="me",
            script="train.py",
            started_s=self.start_s,
            is_live=is_live,
            step=step,
            last_message_s=0.0,
        )


@dataclass
class _Link:
    phase: str = "up"
    since_s: float = field(default_factory=time.monotonic)
    reason: str = ""


class SyntheticSource:
    """A source in this process. With a rate, a thread makes steps at that rate; otherwise `advance` makes them."""

    def __init__(self, *runs, rate_hz=0.0, past=0, refuse="", refuse_focus=""):
        self.runs = {run.run: run for run in runs}
        self.link = _Link()
        self.counters = {"inbox_dropped": 0}
        self.refuse = refuse
        self.refuse_focus = refuse_focus
        self.commands = []
        self.focused = []
        self.at = past
        self._past, self._rate_hz = past, rate_hz
        self._watched = None
        self._entries, self._revision, self._waiting = [], 0, []
        self._breakpoints, self._rules = [], []
        self._inbox = deque([Runs(runs=tuple(run.info() for run in runs))])
        self._on_arrival = lambda: None
        self._is_closed = threading.Event()
        self._clock = threading.Thread(target=self._advance_by_the_clock, daemon=True)

    def __call__(self, on_arrival):
        """Return this source: it is its own `Connect`."""
        self._on_arrival = on_arrival
        on_arrival()
        if self._rate_hz:
            self._clock.start()
        return self

    def put(self, *messages: Message):
        self._inbox.extend(messages)
        self._on_arrival()

    def watch(self, run, *, max_rate_hz=4.0, backfill=True, ranks="each"):
        self._watched = made = self.runs[run]
        if self._rate_hz:
            made.start_s = time.time() - self._past * made.step_s
        steps = range(self._past)
        self.put(
            made.manifest(),
            made.interventions(0, 0),
            Backfill(run=run, state="begin", count=self._past),
        )
        self.put(*(made.step(s) for s in steps if s % made.every == 0))
        self.put(
            *([made.scalars(*steps)] if self._past else []),
            Backfill(run=run, state="end", count=self._past),
        )

    def advance(self, count=1):
        """Make the next steps. Submitted commands take effect at the first one."""
        made = self._watched
        for _ in range(count):
            self._apply()
            self.put(
                made.scalars(self.at), *([made.step(self.at)] if self.at % made.every == 0 else [])
            )
            self.at += 1

    def take(self, most):
        return [self._inbox.popleft() for _ in range(min(most, len(self._inbox)))]

    def _advance_by_the_clock(self):
        while not self._is_closed.wait(1 / self._rate_hz):
            if self._watched:
                self.advance()

    def send(self, command):
        future = Future()
        if command.action == "focus":
            self.focused.append(command.layers)
            if self.refuse_focus:
                future.set_exception(CommandRefusedError(self.refuse_focus))
            else:
                future.set_result(Ack(command=b"x", run=self._watched.run, is_done=True, step=self.at))
            return future
        self.commands.append(command)
        self._waiting.append((command, future))
        return future

    def capture(self, layer, what):
        raise CommandRefusedError(f"this run holds no {what} of {layer}")

    def _apply(self):
        waiting, self._waiting = self._waiting, []
        for command, future in waiting:
            if self.refuse:
                future.set_exception(RuntimeError(self.refuse))
                continue
            self._revision += 1
            name = command.target or f"iv{self._revision}"
            if command.action == "install":
                state = InterventionState(
                    name,
                    command.intervention,
                    command.arguments,
                    command.layers,
                    command.site,
                    "me",
                    self.at,
                    "60 s after its viewer",
                    schedule=command.schedule,
                )
                self._entries.append(state)
            elif command.action in ("break", "unbreak"):
                self._breakpoints = [each for each in self._breakpoints if each.id != command.target]
                if command.action == "break":
                    self._breakpoints.append(BreakpointState(name, command.condition, "me"))
            elif command.action in ("rule", "unrule"):
                self._rules = [each for each in self._rules if each.id != command.target]
                if command.rule is not None:
                    is_same = [each.setting.rule == command.rule.rule for each in self._rules]
                    self._rules = [
                        each for each, same in zip(self._rules, is_same, strict=True) if not same
                    ]
                    end = "" if command.is_kept else "while its viewer is connected"
                    self._rules.append(RuleState(name, command.rule, "me", end))
            else:
                self._entries = [
                    e for e in self._entries if command.action == "remove" and e.id != name
                ]
            future.set_result(
                Ack(command=b"x", run=self._watched.run, is_done=True, step=self.at, id=name)
            )
            state = self._watched.interventions(self._revision, self.at, *self._entries)
            self.put(
                msgspec.structs.replace(
                    state, breakpoints=tuple(self._breakpoints), rules=tuple(self._rules)
                )
            )

    def close(self):
        self._is_closed.set()
        if self._clock.is_alive():
            self._clock.join()
        self.link.phase = "lost"
