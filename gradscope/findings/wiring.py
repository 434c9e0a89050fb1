"""Checks of how model, parameters and optimizers are connected.

Each check is a function of the facts of the newest steps, oldest first, and returns findings. It says
nothing before it has seen `_ENOUGH` steps: a parameter may belong to an optimizer that steps rarely, and
a program may be in a phase that is about to end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from gradscope.findings.codes import finding
from gradscope.findings.facts import LayerFacts, ParameterFacts, WiringFacts
from gradscope.findings.finding import Finding
from gradscope.findings.output_form import dtype_changed, shape_changed

__all__ = ["WIRING_CHECKS", "Check", "find_copied_model", "find_wiring_faults"]

Check: TypeAlias = Callable[[Sequence[WiringFacts]], list[Finding]]

_ENOUGH = 3
_NAMED = 3
"""The number of layers that a message names; the finding has all of them."""

_STRONG_DROPOUT = 0.9
"""At p = 0.9 the noise that dropout adds has three times the root mean square of the signal:
sqrt(p / (1 - p)) = 3."""

_UNREGISTERED = "These layers are in a plain list or dict, so model.parameters() does not have them."
_REGISTER = "Keep them in an nn.ModuleList or nn.ModuleDict, and make the optimizer after that."

_FEW_VALUES = 4
"""With n values per channel, the estimate of the variance has n - 1 degrees of freedom; its relative
error is sqrt(2 / (n - 1)), over 80 % for n <= 4. With n = 2 the output is +1 or -1 for any input."""


def find_wiring_faults(history: Sequence[WiringFacts]) -> list[Finding]:
    """Return the findings of all checks."""
    return [found for check in WIRING_CHECKS for found in check(history)]


def not_in_optimizer(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find parameters that receive gradients and that no optimizer holds.

    Silent without an optimizer that steps, and if one holds no parameter of the model: it may update
    copies (float32 master weights). If the optimizer was given the end of the model only, and most of
    the model is before it, this is a hint: that is how a head is trained on a fixed backbone.
    """
    left = _parameters_left_out(history)
    if not left:
        return []
    newest = history[-1]
    names = _layers_of(left)
    count = sum(parameter.size for parameter in left)
    is_listed = not any(parameter.is_registered for parameter in left)
    is_backbone = _is_beginning(newest, left) and _share(newest, left) > 0.5
    return [
        finding(
            "not-in-optimizer",
            f"{_shown(names)} {_singular_or_plural(names, 'gets', 'get')} gradients but no optimizer holds "
            f"{_singular_or_plural(names, 'its', 'their')} parameters, so they never change",
            step=newest.step,
            since=history[0].step,
            layers=names,
            cause=_UNREGISTERED if is_listed else None,
            fix=_REGISTER if is_listed else None,
            severity="hint" if is_backbone else "warning",
            evidence={"parameters": float(count), "layers": float(len(names))},
        )
    ]


def stale_optimizer(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find optimizers that hold tensors the model no longer has, while the model has others in their place.

    An optimizer that holds tensors of two models is normal; so a parameter of the same shape must be
    left out of all optimizers.
    """
    left = _parameters_left_out(history)
    findings = []
    for optimizer in history[-1].optimizers if left else ():
        shapes = set(optimizer.foreign_shapes)
        replaced = [parameter for parameter in left if parameter.shape in shapes]
        is_grown = bool(shapes) and not replaced
        if replaced or (is_grown and len(optimizer.foreign_shapes) == len(left)):
            names = _layers_of(replaced or left)
            findings.append(
                finding(
                    "stale-optimizer",
                    f"{optimizer.type} updates {len(optimizer.foreign_shapes)} tensors that the "
                    f"model no longer has; the parameters of {_shown(names)} are in no optimizer",
                    step=history[-1].step,
                    since=history[0].step,
                    layers=names,
                    evidence={
                        "tensors_not_in_model": float(len(optimizer.foreign_shapes)),
                        "tensors": float(optimizer.held),
                    },
                )
            )
    return findings


def unwritten_copies(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find an optimizer that updates a copy of each parameter, while the model has not changed in three steps."""
    newest = [history[position] for position in range(max(0, len(history) - _ENOUGH), len(history))]
    is_certain = len(newest) == _ENOUGH and all(_unwritten(facts) for facts in newest)
    return _unwritten(history[-1]) if is_certain else []


def _unwritten(facts: WiringFacts) -> list[Finding]:
    return [
        finding(
            "stale-optimizer",
            f"{optimizer.type} updates copies of the model's {optimizer.held} parameters, but they are never written "
            "back: the model has the weights with which the run began",
            step=facts.step,
            layers=tuple(dict.fromkeys(p.layer for p in facts.parameters if p.is_trainable)),
            confidence="measured",
            fix="Copy the updated tensors into the model's parameters after each step: parameter.copy_(copied) under "
            "torch.no_grad().",
            evidence={"tensors_not_in_model": float(optimizer.held)},
        )
        for optimizer in facts.optimizers
        if optimizer.is_unwritten
    ][:1]


def in_two_optimizers(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find parameters that two optimizers update. Both must have stepped in the newest steps."""
    if len(history) < _ENOUGH:
        return []
    active = {
        position
        for facts in history
        for position, optimizer in enumerate(facts.optimizers)
        if optimizer.has_stepped
    }
    newest = history[-1]
    twice = [p for p in newest.parameters if len(active.intersection(p.optimizers)) > 1]
    if not twice:
        return []
    names = _layers_of(twice)
    types = [newest.optimizers[position].type for position in sorted(active & set(twice[0].optimizers))]
    return [
        finding(
            "in-two-optimizers",
            f"the parameters of {_shown(names)} are updated by {len(types)} optimizers "
            f"({', '.join(types)})",
            step=newest.step,
            since=history[0].step,
            layers=names,
            evidence={"optimizers": float(len(types)), "layers": float(len(names))},
        )
    ]


def frozen(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find whole layers without requires_grad in an optimizer.

    An optimizer that was given only the trainable parameters is silent: the rest is frozen on purpose.
    It is a hint if most layers are frozen or only the first ones, as in fine-tuning, only embeddings
    (sinusoidal positions, pretrained word vectors), or layers with an adapter of their own (LoRA), and a
    warning if single layers inside or at the end of a trained model are.
    """
    if len(history) < _ENOUGH:
        return []
    newest = history[-1]
    of_layer: dict[str, list[ParameterFacts]] = defaultdict(list)
    for parameter in newest.parameters:
        of_layer[parameter.layer].append(parameter)
    layers = [
        owned
        for owned in of_layer.values()
        if all(not each.is_trainable and each.optimizers for each in owned)
        and any(len(each.shape) > 1 for each in owned)  # a layer with a weight, not a constant
        and owned[0].layer
    ]
    found = [parameter for owned in layers for parameter in owned]
    if not found:
        return []
    names = _layers_of(found)
    share = _share(newest, found)
    weighted = {parameter.layer for parameter in newest.parameters if len(parameter.shape) > 1}
    types = {layer.name: layer.type for layer in newest.layers}
    is_usual = (
        2 * len(names) >= len(weighted)
        or _is_beginning(newest, found)
        or all("Embedding" in types[name] for name in names)
        or _have_adapters(newest, layers, types)
    )
    return [
        finding(
            "frozen",
            f"{_shown(names)} {_singular_or_plural(names, 'is', 'are')} frozen (requires_grad=False) "
            f"but in an optimizer; {share:.0%} of the model's parameters do not train",
            step=newest.step,
            since=history[0].step,
            layers=names,
            severity="hint" if is_usual else "warning",
            evidence={"share_of_parameters": share, "layers": float(len(names))},
        )
    ]


def no_gradient(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find layers that ran and whose parameters an optimizer updates, but that never received a gradient.

    The facts must be of observed steps in which the layer ran; then an expert that was not chosen and a
    branch that is not used are silent. Or the layer ran in training mode, but only under no_grad; if these
    layers are the first ones and most of the model, this is a hint: a fixed backbone.
    """
    if len(history) < _ENOUGH:
        return []
    newest = history[-1]
    ran = _always(history, lambda layer: layer.has_run is True)
    watched = [
        facts
        for facts in history
        if any(layer.has_run_without_graph is not None for layer in facts.layers)
    ]
    without_graph = _always(watched, lambda layer: bool(layer.has_run_without_graph))
    if len(watched) < _ENOUGH:
        without_graph = set()
    stepped = {i for facts in history for i, each in enumerate(facts.optimizers) if each.has_stepped}
    if not all(any(p.has_gradient for p in facts.parameters) for facts in history):
        return []  # no backward pass reached the model
    with_gradient = {p.name for facts in history for p in facts.parameters if p.has_gradient}
    found = [
        p
        for p in newest.parameters
        if p.is_trainable
        and not stepped.isdisjoint(p.optimizers)
        and p.name not in with_gradient
        and p.layer in ran | without_graph
    ]
    if not found:
        return []
    names = _layers_of(found)
    is_without_graph = without_graph.issuperset(names)
    is_backbone = is_without_graph and _is_beginning(newest, found) and _share(newest, found) > 0.5
    how = "only under torch.no_grad(), and" if is_without_graph else f"in {len(history)} steps, but"
    return [
        finding(
            "no-gradient",
            f"{_shown(names)} ran {how} no gradient arrived at {found[0].name}",
            step=newest.step,
            since=history[0].step,
            layers=names,
            severity="hint" if is_backbone else "warning",
            evidence={"parameters": float(len(found)), "steps": float(len(history))},
        )
    ]


def never_zeroed(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find gradients of earlier steps that are still there when the next backward pass begins.

    One parameter of each optimizer is checked. The finding has no layers if it is about all optimizers.
    """
    checked: dict[str, list[bool]] = defaultdict(list)
    for parameter in (each for facts in history for each in facts.parameters):
        if parameter.left_gradient is not None:
            checked[parameter.name].append(parameter.left_gradient)
    left = {name for name, values in checked.items() if len(values) >= _ENOUGH and all(values)}
    if not left:
        return []
    newest = history[-1]
    holders = {p.optimizers for p in newest.parameters if p.name in left}
    names = _layers_of(p for p in newest.parameters if p.optimizers in holders)
    stepped = {i for facts in history for i, each in enumerate(facts.optimizers) if each.has_stepped}
    is_partial = bool(stepped.difference(*holders))
    of_what = f" of {_shown(names)}" if is_partial else ""
    steps = max(len(checked[name]) for name in left)
    return [
        finding(
            "never-zeroed",
            f"the gradients{of_what} of earlier steps are never zeroed (checked in {steps} steps)",
            step=newest.step,
            since=history[0].step,
            layers=names if is_partial else (),
            confidence="measured",
            evidence={"steps": float(steps)},
        )
    ]


def eval_mode(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find Dropout and BatchNorm in eval mode in steps that train.

    A layer in eval mode inside a frozen module is silent. BatchNorm alone in eval mode is a hint: it is
    common in fine-tuning.
    """
    if len(history) < _ENOUGH:
        return []
    newest = history[-1]
    ran = {layer.name for layer in newest.layers if layer.has_run is not False}
    always = _always(history, lambda layer: layer.depends_on_mode and not layer.is_training) & ran
    trained = [p.layer for p in newest.parameters if p.is_trainable and p.optimizers]
    wrong = [layer for layer in newest.layers if layer.name in always and _is_near(layer.name, trained)]
    if not wrong or not any(each.has_stepped for facts in history for each in facts.optimizers):
        return []
    names = tuple(layer.name for layer in wrong)
    types = _words(sorted({layer.type for layer in wrong}))
    is_whole = not any(facts.is_training for facts in history)
    is_norm_only = all(layer.dropout is None for layer in wrong)
    if is_whole:
        message = (
            f"the model is in eval mode while it trains: {types} (as in `{names[0]}`) as in inference"
        )
    else:
        are = _singular_or_plural(names, "is", "are")
        message = f"{_shown(names)} ({types}) {are} in eval mode while the model trains"
    return [
        finding(
            "eval-mode",
            message,
            step=newest.step,
            since=history[0].step,
            layers=names,
            severity="hint" if is_norm_only and not is_whole else "warning",
            evidence={"layers_in_eval_mode": float(len(names))},
        )
    ]


def batchnorm_batch_size(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find BatchNorm layers in training mode that normalize over very few values per channel."""
    if len(history) < _ENOUGH:
        return []
    few = _always(
        history,
        lambda layer: (
            layer.is_training
            and layer.values_per_channel is not None
            and layer.values_per_channel <= _FEW_VALUES
        ),
    )
    found = [layer for layer in history[-1].layers if layer.name in few]
    if not found:
        return []
    names = tuple(layer.name for layer in found)
    least = min(layer.values_per_channel or 0.0 for layer in found)
    return [
        finding(
            "batchnorm-batch-size-one",
            f"{_shown(names)} {_singular_or_plural(names, 'normalizes', 'normalize')} over "
            f"{least:g} values per channel",
            step=history[-1].step,
            since=history[0].step,
            layers=names,
            severity="warning" if least <= 2 else "hint",
            confidence="measured",
            evidence={"values_per_channel": least},
        )
    ]


def dropout_too_strong(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find Dropout layers that remove nine tenths of the values or more."""
    if len(history) < _ENOUGH:
        return []
    strong = _always(
        history,
        lambda layer: (
            layer.is_training
            and layer.has_run is not False
            and layer.dropout is not None
            and layer.dropout >= _STRONG_DROPOUT
        ),
    )
    found = [layer for layer in history[-1].layers if layer.name in strong]
    if not found:
        return []
    names, most = tuple(layer.name for layer in found), max(layer.dropout or 0.0 for layer in found)
    return [
        finding(
            "dropout-too-strong",
            f"{_shown(names)} {_singular_or_plural(names, 'drops', 'drop')} {most:.0%} of the values",
            step=history[-1].step,
            since=history[0].step,
            layers=names,
            evidence={"p": most},
        )
    ]


def clip_before_unscale(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find gradients that are clipped while they are still multiplied by the loss scale of a GradScaler."""
    scales = [facts.clipped_at_scale for facts in history if facts.clipped_at_scale is not None]
    if len(scales) < _ENOUGH or not all(scale > 1 for scale in scales):
        return []
    return [
        finding(
            "clip-before-unscale",
            f"gradients are clipped while they are multiplied by the loss scale of {scales[-1]:g}: the limit acts "
            f"as {1 / scales[-1]:.1g} times its value",
            step=history[-1].step,
            since=history[0].step,
            evidence={"loss_scale": scales[-1], "steps": float(len(scales))},
        )
    ]


def tied_weights_broken(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find names that shared one parameter when the run began and have parameters of their own now."""
    if not history:
        return []
    newest = history[-1]
    now = {parameter.name: parameter for parameter in newest.parameters}
    findings = []
    for names in newest.tied_at_attach:
        owners = [now[name] for name in names if name in now]
        if len({owner.key for owner in owners}) < 2:
            continue
        findings.append(
            finding(
                "tied-weights-broken",
                f"{_words([owner.name for owner in owners])} were one tensor at attach and are "
                "not any more",
                step=newest.step,
                layers=_layers_of(owners),
                evidence={"names": ", ".join(owner.name for owner in owners)},
            )
        )
    return findings


WIRING_CHECKS: tuple[Check, ...] = (
    not_in_optimizer,
    stale_optimizer,
    unwritten_copies,
    in_two_optimizers,
    frozen,
    no_gradient,
    dtype_changed,
    shape_changed,
    never_zeroed,
    eval_mode,
    batchnorm_batch_size,
    dropout_too_strong,
    tied_weights_broken,
    clip_before_unscale,
)
"""All checks, in the order in which they run."""


def _parameters_left_out(history: Sequence[WiringFacts]) -> list[ParameterFacts]:
    """Return the parameters that got a gradient in each step and that no optimizer holds."""
    if len(history) < _ENOUGH:
        return []
    newest = history[-1]
    is_stepping = any(each.has_stepped for facts in history for each in facts.optimizers)
    has_copies = any(
        len(each.foreign_shapes) == each.held and (each.has_gradient or not each.has_stepped)
        for each in newest.optimizers
    )
    if not is_stepping or has_copies:
        return []
    left: set[str] | None = None
    for facts in history:
        names = {
            p.name for p in facts.parameters if p.is_trainable and p.has_gradient and not p.optimizers
        }
        left = names if left is None else left & names
    return [parameter for parameter in newest.parameters if parameter.name in (left or ())]


def _always(history: Sequence[WiringFacts], holds: Callable[[LayerFacts], bool]) -> set[str]:
    """Return the names of the layers for which a condition holds in each step."""
    sets = [{layer.name for layer in facts.layers if holds(layer)} for facts in history]
    return set.intersection(*sets) if sets else set()


def _layers_of(parameters: Iterable[ParameterFacts]) -> tuple[str, ...]:
    """Return the names of the layers in order; the model itself is the last."""
    names = dict.fromkeys(parameter.layer for parameter in parameters)
    return tuple(sorted(names, key=lambda name: not name))


def _is_beginning(facts: WiringFacts, chosen: Sequence[ParameterFacts]) -> bool:
    """Return whether the chosen parameters are the first of the model, without a gap."""
    return {each.name for each in facts.parameters[: len(chosen)]} == {each.name for each in chosen}


def _share(facts: WiringFacts, chosen: Sequence[ParameterFacts]) -> float:
    """Return the share of the model's elements that the chosen parameters have."""
    sizes = {parameter.key: parameter.size for parameter in facts.parameters}
    mine = {parameter.key: parameter.size for parameter in chosen}
    return sum(mine.values()) / max(1, sum(sizes.values()))


def _have_adapters(
    facts: WiringFacts, frozen: Sequence[Sequence[ParameterFacts]], types: Mapping[str, str]
) -> bool:
    """Return whether the module around each frozen layer trains other parameters, altogether fewer ones."""
    trained = 0
    for owned in frozen:
        around = owned[0].layer.rpartition(".")[0]
        if not around or types.get(around) in ("Sequential", "ModuleList", "ModuleDict"):
            return False
        sizes = [p.size for p in facts.parameters if p.is_trainable and p.name.startswith(f"{around}.")]
        if not sizes:
            return False
        trained += sum(sizes)
    return trained < sum(parameter.size for owned in frozen for parameter in owned)


def _is_near(layer: str, trained: Iterable[str]) -> bool:
    """Return whether the module around a layer contains trained parameters."""
    around = layer.rpartition(".")[0]
    return any(name == around or name.startswith(f"{around}." if around else "") for name in trained)


def _shown(names: Sequence[str]) -> str:
    shown = [f"`{name}`" if name else "the model itself" for name in names[:_NAMED]]
    rest = len(names) - len(shown)
    return _words(shown) if not rest else f"{', '.join(shown)} and {rest} more"


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _singular_or_plural(names: Sequence[str], one: str, several: str) -> str:
    """Return the form of a verb for one or for several layers."""
    return one if len(names) == 1 else several


def find_copied_model(facts: WiringFacts) -> list[Finding]:
    """Find an optimizer that holds tensors of the shapes of all trainable parameters, and none of the model.

    None of its tensors has a gradient, but the model's parameters have: the model was copied, or its
    parameters were replaced, after the optimizer was made. Float32 copies that train a model have gradients; they
    are found if the model never changes.
    """
    trained = [parameter for parameter in facts.parameters if parameter.is_trainable]
    wanted = Counter({p.key: p.shape for p in trained}.values())
    unwritten = _unwritten(facts)
    if unwritten or not any(parameter.has_gradient for parameter in trained):
        return unwritten
    return [
        finding(
            "stale-optimizer",
            f"{optimizer.type} holds {optimizer.held} tensors with the shapes of the model's parameters, but "
            "none of them is in the model or has a gradient, so the model is not trained",
            step=facts.step,
            layers=tuple(dict.fromkeys(parameter.layer for parameter in trained)),
            evidence={
                "tensors_not_in_model": float(len(optimizer.foreign_shapes)),
                "tensors": float(optimizer.held),
            },
        )
        for optimizer in facts.optimizers
        if wanted <= Counter(optimizer.foreign_shapes) and not optimizer.has_gradient
    ][:1]
