"""Finds possible causes of the first difference: it compares the inputs, states and settings of its step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gradscope.columns import INPUT_KIND
from gradscope.comparison.context import Note
from gradscope.comparison.rows import Alignment, Row
from gradscope.comparison.sides import Side, SideStep
from gradscope.names import counted
from gradscope.recording import PRECISION

if TYPE_CHECKING:
    from gradscope.comparison.diff import Divergence

__all__ = ["Evidence", "Suspect", "find_suspects"]

_ROUNDINGS: Final = 256
"""Up to this many units in the last place a difference is taken for rounding: a sum of k products has an error of about
√k roundings, and k is at most some ten thousand."""

_COARSE: Final = 2.0**-7
"""A product whose operands are rounded to 10 bits (TF32) or 7 bits (bfloat16) differs by less than this fraction."""

_RANDOM: Final = {
    "random.torch": "the random state of torch",
    "random.python": "the random state of Python",
    "random.numpy": "the random state of NumPy",
}


@dataclass(frozen=True, slots=True)
class Suspect:
    """A likely cause. `text` is a sentence."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The step of the first difference on both sides, and the step before that was compared."""

    first: "Divergence"
    a: SideStep
    b: SideStep
    before: tuple[SideStep, SideStep] | None
    alignment: Alignment
    differing: tuple[Row, ...]
    layer_types: Mapping[str, str]
    epsilon: float
    notes: tuple[Note, ...]
    side_a: Side
    side_b: Side

    @property
    def place(self) -> str:
        """The layer or parameter where the difference is."""
        return place_of(self.first.layer, self.first.kind)


def place_of(layer: str, kind: str) -> str:
    """Return a layer, or a parameter by its full name."""
    _, _, name = kind.partition(".")
    is_parameter = kind.startswith(("param", "update"))
    if is_parameter and name:
        return f"{layer}.{name}" if layer else name
    return layer or "the model"


def find_suspects(evidence: Evidence) -> tuple[Suspect, ...]:
    """Return likely causes, the most likely first; empty if nothing is known."""
    of_pass: dict[str, Callable[[Evidence], Iterator[Suspect]]] = {
        "parameters": _of_parameters,
        "input": _of_input,
        "forward": _of_forward,
        "backward": _of_backward,
        "gradients": _of_gradients,
        "optimizer": _of_optimizer,
    }
    suspects = [*of_pass[evidence.first.stage](evidence)]
    if evidence.first.is_rounded:
        suspects.append(
            Suspect(
                "rounded",
                f"the recorded statistics of step {evidence.first.step} are rounded to {100 * PRECISION:.1g} %: a "
                "smaller difference may have begun in an earlier layer, pass or step; attach(digest=True) compares "
                "bits",
            )
        )
    found = {suspect.code: suspect for suspect in reversed(suspects)}
    return tuple(reversed(found.values()))


def _of_parameters(evidence: Evidence) -> Iterator[Suspect]:
    first, differing = evidence.first, evidence.differing
    if first.after_step is None:
        where = f"before step {first.step}"
        random = _differing_states(evidence)
        if len(differing) > 1 and 2 * len(differing) >= first.rows:
            also = f", and {random[0]} differs too" if random else ""
            what = f"{len(differing)} of {counted(first.rows, 'parameter')} differ {where}{also}"
            yield Suspect("seed", f"another seed or another checkpoint: {what}")
        else:
            names = ", ".join(f"`{place_of(row.layer, row.kind)}`" for row in differing[:4])
            yield Suspect(
                "initial-parameters",
                f"only {names} of {counted(first.rows, 'parameter')} differ {where}: weights were changed "
                "after initialisation, or loaded from another file",
            )
        return
    yield from _hyperparameters(evidence)
    if first.after_step == first.step - 1:
        yield Suspect(
            "changed-outside-optimizer",
            f"`{evidence.place}` was equal after the optimizer of step {first.after_step} and differs before that of "
            f"step {first.step}: it was changed in between, by other code or in memory",
        )
    else:
        yield Suspect(
            "not-observed",
            f"the runs part in a step from {first.after_step + 1} to {first.step - 1}, which was not observed in both; "
            "attach(every=1) observes every step",
        )


def _of_input(evidence: Evidence) -> Iterator[Suspect]:
    step, states = evidence.first.step, _differing_states(evidence)
    other = _step_with_same_input(evidence)
    if other is not None:
        yield Suspect(
            "data-order",
            f"B has in step {step} the batch that A has in step {other}: the order of the data differs",
        )
    else:
        yield Suspect(
            "data",
            f"the batch of step {step} in B is in no observed step of A: other data, augmentation or preparation",
        )
    if states:
        verb = "differs" if len(states) == 1 else "differ"
        since = " and before, when the batches were the same" if _differed_before(evidence) else ""
        yield Suspect("random-state", f"{' and '.join(states)} {verb} in step {step}{since}")


def _of_forward(evidence: Evidence) -> Iterator[Suspect]:
    layer, kind_of_layer = evidence.place, evidence.layer_types.get(evidence.first.layer, "")
    yield from _modes(evidence)
    random = [state for state in _differing_states(evidence) if "torch" in state or "CUDA" in state]
    if "dropout" in kind_of_layer.lower() or "drop" in kind_of_layer.lower():
        reason = (
            f"random state differs before `{layer}`"
            if random
            else f"`{layer}` ({kind_of_layer}) got the same input: it is on in one run only, has another probability, "
            "or drew other random numbers"
        )
        yield Suspect("dropout", f"dropout: {reason}")
    elif random:
        yield Suspect(
            "random-state",
            f"{random[0]} differs in step {evidence.first.step}, and `{layer}` may draw random numbers",
        )
    yield from _precision(evidence)


def _of_backward(evidence: Evidence) -> Iterator[Suspect]:
    outputs = [row for row in evidence.alignment.rows if row.stage == "backward"]
    is_at_output = bool(outputs) and outputs[0].layer == evidence.first.layer
    if is_at_output and not _is_rounding(evidence):
        yield Suspect(
            "loss",
            "the outputs are the same and their gradients are not: other targets, another loss or loss scale",
        )
    yield from _precision(evidence)


def _of_gradients(evidence: Evidence) -> Iterator[Suspect]:
    first = evidence.first
    has_before = any(row.kind.startswith("param_grad_before_clip") for row in evidence.alignment.rows)
    if has_before and not first.kind.startswith("param_grad_before_clip"):
        yield Suspect(
            "clipping", "the gradients are the same before clipping and differ after it: another limit"
        )
    elif first.others + 1 == first.rows and not _is_rounding(evidence):
        yield Suspect(
            "gradients",
            "all parameter gradients differ although the gradients of the outputs are the same: they are scaled, "
            "clipped or accumulated differently",
        )
    yield from _precision(evidence)


def _of_optimizer(evidence: Evidence) -> Iterator[Suspect]:
    yield from _hyperparameters(evidence)
    a, b = evidence.a.facts, evidence.b.facts
    if a.optimizer_state is not None and a.optimizer_state != b.optimizer_state:
        yield Suspect(
            "optimizer-state",
            f"the optimizer has a state for {counted(a.optimizer_state, 'parameter')} in A and for "
            f"{b.optimizer_state or 0} in B",
        )
    for name, digest in a.digests.items():
        if name.startswith("optimizer") and b.digests.get(name, digest) != digest:
            yield Suspect(
                "optimizer-state",
                f"the state of the optimizer differs before step {evidence.first.step}",
            )
    yield from _precision(evidence)
    if not a.hyperparameters or a.hyperparameters != b.hyperparameters:
        return
    yield Suspect(
        "optimizer",
        "parameters, gradients and hyperparameters are the same before the step: another optimizer, or another state",
    )


def _hyperparameters(evidence: Evidence) -> Iterator[Suspect]:
    steps = [(evidence.a, evidence.b), *([evidence.before] if evidence.before else [])]
    for a, b in steps:
        mine, its = a.facts.hyperparameters, b.facts.hyperparameters
        if not mine or not its:
            yield from _logged_learning_rate(evidence)
            return
        for name in sorted({*mine, *its}, key=lambda each: (not each.startswith("lr"), each)):
            if mine.get(name) != its.get(name):
                label = f"learning rate{name[2:]}" if name.startswith("lr") else name
                values = [f"{side[name]:g}" if name in side else "not set" for side in (mine, its)]
                code = "learning-rate" if name.startswith("lr") else "hyperparameter"
                yield Suspect(
                    code,
                    f"{label} differs from step {a.step}: {values[0]} in A, {values[1]} in B",
                )


def _logged_learning_rate(evidence: Evidence) -> Iterator[Suspect]:
    """Compare the learning rates that gradscope logs of the optimizers, for steps without facts."""
    a, b = (_scalars(side, "optimizer_lr") for side in (evidence.side_a, evidence.side_b))
    for step in sorted(a.keys() & b.keys()):
        if step <= evidence.first.step and a[step] != b[step]:
            text = f"learning rate differs from step {step}: {a[step]:g} in A, {b[step]:g} in B"
            yield Suspect("learning-rate", text)
            return


def _scalars(side: Side, name: str) -> dict[int, float]:
    return {
        step: value
        for message in side.recording.scalars()
        if message.rank == side.rank and name in message.values
        for step, value in zip(message.steps, message.values[name], strict=False)
        if value is not None
    }


def _modes(evidence: Evidence) -> Iterator[Suspect]:
    a, b = evidence.a.layers_in_eval(), evidence.b.layers_in_eval()
    layer = evidence.first.layer
    for names, where, other in ((b - a, "B", "A"), (a - b, "A", "B")):
        if names:
            name = layer if layer in names else min(names)
            kind = evidence.layer_types.get(name, "")
            more = f", and {len(names) - 1} other layers" if len(names) > 1 else ""
            yield Suspect(
                "eval-mode",
                f"`{name or 'the model'}`{f' ({kind})' if kind else ''} is in eval mode in {where} "
                f"and not in {other}{more}",
            )


def _precision(evidence: Evidence) -> Iterator[Suspect]:
    if evidence.first.is_rounded and evidence.first.size < _COARSE:
        return  # the size is that of the recording's rounding
    size, place = evidence.first.size, evidence.place
    settings = [
        f"{name} {value} in A, {evidence.b.facts.settings[name]} in B"
        for name, value in evidence.a.facts.settings.items()
        if evidence.b.facts.settings.get(name, value) != value
    ]
    why = "; ".join(
        [*settings, *(note.text for note in evidence.notes if note.code == "environment")][:3]
    )
    if _is_rounding(evidence):
        size_text = f"{size:.0e} of its size" if size else "less than its statistics show"
        yield Suspect(
            "rounding",
            f"`{place}` differs by rounding only ({size_text}): "
            + (why or "another order of a sum, or another kernel, library or number of threads"),
        )
    elif size < _COARSE:
        yield Suspect(
            "precision",
            f"`{place}` differs by {size:.0e} of its size, as if operands were rounded to fewer bits (TF32, bfloat16 "
            "or float16 products), or a small change of the computation" + (f": {why}" if why else ""),
        )
    elif why:
        yield Suspect("settings", f"the processes differ: {why}")


def _is_rounding(evidence: Evidence) -> bool:
    return not evidence.first.is_rounded and evidence.first.size <= _ROUNDINGS * evidence.epsilon


def _differing_states(evidence: Evidence) -> list[str]:
    """Return the random generators whose state differs at the beginning of the step."""
    return [
        _RANDOM.get(name, f"the random state of CUDA device {name.rpartition('.')[2]}")
        for name in sorted(_differing_names(evidence.a, evidence.b))
    ]


def _differing_names(a: SideStep, b: SideStep) -> set[str]:
    mine, its = a.facts.digests, b.facts.digests
    random = {name for name in mine if name.startswith("random.")}
    return {name for name in random if its.get(name, mine[name]) != mine[name]}


def _differed_before(evidence: Evidence) -> bool:
    """Return whether a random state that differs now differed in the step before, too."""
    if evidence.before is None:
        return False
    now = _differing_names(evidence.a, evidence.b)
    return not now.isdisjoint(_differing_names(*evidence.before))


def _step_with_same_input(evidence: Evidence) -> int | None:
    """Return the step of A with the inputs that B has in the step of the difference."""
    wanted = _inputs(evidence.b)
    if not wanted:
        return None
    steps = (each.step for each in evidence.side_a.steps() if _inputs(each) == wanted)
    return next(steps, None)


def _inputs(step: SideStep) -> dict[str, int]:
    block = step.block
    if block.digest is None:
        return {}
    return {
        block.kinds[int(block.kind[i])]: int(block.digest[i])
        for i in range(len(block))
        if block.kinds[int(block.kind[i])].startswith(f"{INPUT_KIND}.") and block.digest[i]
    }
