"""All interventions as data: arguments, sites, and the texts that the user interfaces show.

`intervene/actions.py` adds the tensor functions in the training process. The command line, the form of
the terminal UI, the argument checks and the generated Python code are built from these entries.
"""
# ruff: noqa: RUF001 - the minus and multiplication signs are meant

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gradscope.catalogue.arguments import Argument, Arguments, Suggestion
from gradscope.errors import UsageError

__all__ = ["COMMON", "INTERVENTIONS", "SCOPE_METHODS", "SITES", "InterventionSpec", "check_site"]

SITES = ("output", "input", "params")
"""The tensors that an intervention changes. `output`: the gradient that arrives at the layer's output, or the
output itself. `input`: the gradient that leaves through the layer's inputs, or the inputs themselves.
`params`: the gradients of the parameters of the layer and its submodules, before the optimizer steps."""

_AROUND = ("output", "input")


@dataclass(frozen=True, slots=True)
class InterventionSpec:
    """One intervention.

    what: what it changes: a `gradient`, the `value` in the forward pass (with its own gradient), or the
        `passage`, so that the gradient bypasses the layer.
    is_linear: scaling the gradient by c scales the result by c.
    needs_whole: on a shard of a gradient, the result would differ from that on the whole gradient.
    is_random: it draws random numbers.
    help: a description that begins with a verb. menu: a shorter form of it.
    key, verb, effect, short: for the UI: the key, its title, the end of the sentence that describes the
        effect, and the form for a table cell. `{name}` is replaced by the value of that argument.
    module: the equivalent module of `gradscope.nn`. on_parameters: the equivalent line of PyTorch for a
        parameter `p`. `{name}` is replaced by the argument as Python code. Empty if there is none.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    what: Literal["gradient", "value", "passage"] = "gradient"
    sites: tuple[str, ...] = SITES
    is_linear: bool = False
    needs_whole: bool = False
    is_random: bool = False
    key: str = ""
    verb: str = ""
    menu: str = ""
    effect: str = ""
    short: str = ""
    module: str = ""
    on_parameters: str = ""


def check_site(spec: InterventionSpec, site: str, arguments: Arguments) -> str:
    """Return the validated site. Raises UsageError with the allowed sites, or with the reason."""
    if site not in SITES:
        raise UsageError(f"no site {site!r}; there are: {', '.join(SITES)}")
    if site not in spec.sites:
        subject = "gradients of parameters do not pass it" if site == "params" else "it spans the layer"
        if spec.what == "value":
            subject = "it changes activations, and parameters have none"
        raise UsageError(
            f"{spec.name} cannot be used with site={site!r}, only with {', '.join(spec.sites)}: {subject}"
        )
    if arguments.get("per") == "all" and site != "params":
        raise UsageError(
            f"{spec.name}(per='all') expected site='params', got {site!r}: it needs the gradients of all layers "
            f"at once, and backward frees the gradient at one {site} before it computes the next"
        )
    return site


_SEED = Argument("seed", "the same seed gives the same noise", "whole", default=0.0, lowest=0.0)
_PER = Argument(
    "per",
    "whose norm: of each tensor, of all of a layer, or of all chosen layers (site params)",
    "choice",
    default="tensor",
    options=("tensor", "layer", "all"),
)
_FACTOR = Argument("factor", "the multiplier", suggestion=Suggestion(0.1))
_LIMIT = Argument(
    "limit",
    "the largest magnitude",
    lowest=0.0,
    may_be_infinite=True,
    suggestion=Suggestion(1.0, "absmax", 0.5),
)
_STD = Argument("std", "its standard deviation", lowest=0.0, suggestion=Suggestion(1e-3, "rms", 0.1))

_GRADIENTS = (
    InterventionSpec(
        "reverse",
        "multiply the gradient by -alpha, as a gradient reversal layer does",
        (Argument("alpha", "how strongly", default=1.0),),
        is_linear=True,
        key="r",
        verb="reverse",
        menu="multiply by −alpha",
        effect="is multiplied by −{alpha}",
        short="reverse ×−{alpha}",
        module="GradientReversal({alpha})",
        on_parameters="p.grad.mul_(-{alpha})",
    ),
    InterventionSpec(
        "scale",
        "multiply the gradient by a factor",
        (_FACTOR,),
        is_linear=True,
        key="s",
        verb="scale",
        menu="multiply the gradient",
        effect="is multiplied by {factor}",
        short="scale ×{factor}",
        module="GradientScale({factor})",
        on_parameters="p.grad.mul_({factor})",
    ),
    InterventionSpec(
        "clip",
        "scale the gradient down to a norm of at most max_norm",
        (
            Argument(
                "max_norm",
                "the largest norm",
                lowest=0.0,
                may_be_infinite=True,
                suggestion=Suggestion(1.0, "norm", 0.5),
            ),
            _PER,
        ),
        needs_whole=True,
        key="c",
        verb="clip",
        menu="limit the norm",
        effect="is scaled down to a norm of at most {max_norm}",
        short="clip ≤{max_norm}",
        module="GradientClip({max_norm})",
        on_parameters="torch.nn.utils.clip_grad_norm_(p, {max_norm})",
    ),
    InterventionSpec(
        "clamp",
        "limit each element of the gradient to ±limit",
        (_LIMIT,),
        key="l",
        verb="clamp",
        menu="limit each element",
        effect="has each element limited to ±{limit}",
        short="clamp ±{limit}",
        module="GradientClamp({limit})",
        on_parameters="p.grad.clamp_(-{limit}, {limit})",
    ),
    InterventionSpec(
        "stop",
        "set the gradient to zero",
        is_linear=True,
        key="x",
        verb="stop",
        menu="set it to zero",
        effect="becomes zero: nothing before it learns from it",
        short="stop",
        module="StopGradient()",
        on_parameters="p.grad.zero_()",
    ),
    InterventionSpec(
        "noise",
        "add Gaussian noise to the gradient",
        (
            _STD,
            _SEED,
            Argument("relative", "std is a fraction of the gradient's own std", "yes", default=False),
        ),
        is_random=True,
        key="n",
        verb="noise",
        menu="add Gaussian noise",
        effect="gets Gaussian noise of standard deviation {std} added",
        short="noise σ {std}",
        module="GradientNoise({std}, {seed}, is_relative={relative})",
    ),
    InterventionSpec(
        "replace_nonfinite",
        "replace each NaN and infinity in the gradient by a number",
        (Argument("value", "the number", default=0.0),),
        key="f",
        verb="replace NaN and Inf in",
        menu="replace NaN and Inf",
        effect="has {value} for each NaN and infinity",
        short="NaN, Inf → {value}",
        module="GradientReplaceNonfinite({value})",
        on_parameters="p.grad.nan_to_num_({value}, {value}, {value})",
    ),
    InterventionSpec(
        "straight_through",
        "pass the output's gradient unchanged to the layer's input; the layer's parameters get zeros",
        what="passage",
        sites=("output",),
        key="t",
        verb="pass through",
        menu="bypass the layer",
        effect="goes to its input unchanged",
        short="straight through",
    ),
)

_ACTIVATIONS = (
    InterventionSpec(
        "scale_activation",
        "multiply the activation by a factor",
        (_FACTOR,),
        what="value",
        sites=_AROUND,
        key="S",
        verb="scale",
        menu="multiply the output",
        effect="is multiplied by {factor}",
        short="output ×{factor}",
    ),
    InterventionSpec(
        "clamp_activation",
        "limit each element of the activation to ±limit",
        (_LIMIT,),
        what="value",
        sites=_AROUND,
        key="L",
        verb="clamp",
        menu="limit the output",
        effect="is limited to ±{limit}",
        short="output ±{limit}",
    ),
    InterventionSpec(
        "zero_activation",
        "set the activation to zero (ablation)",
        what="value",
        sites=_AROUND,
        key="Z",
        verb="ablate",
        menu="set the output to zero",
        effect="becomes zero",
        short="output = 0",
    ),
    InterventionSpec(
        "noise_activation",
        "add Gaussian noise to the activation",
        (_STD, _SEED),
        what="value",
        sites=_AROUND,
        is_random=True,
        key="N",
        verb="noise",
        menu="noise on the output",
        effect="gets noise of standard deviation {std} added",
        short="output + σ {std}",
    ),
    InterventionSpec(
        "round_activation",
        "round the activation to a lower precision",
        (
            Argument(
                "dtype",
                "the precision",
                "choice",
                default="bfloat16",
                options=("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"),
            ),
        ),
        what="value",
        sites=_AROUND,
        key="B",
        verb="round",
        menu="a lower precision",
        effect="is rounded to the precision of {dtype}",
        short="output as {dtype}",
    ),
)

INTERVENTIONS: Mapping[str, InterventionSpec] = {
    spec.name: spec for spec in (*_GRADIENTS, *_ACTIVATIONS)
}
"""The built-in interventions, by name. A script can register others in its own process."""

SCOPE_METHODS = (
    "reverse", "scale", "clip", "clamp", "stop", "noise", "replace_nonfinite", "straight_through",
    "scale_activation", "clamp_activation", "zero_activation", "noise_activation", "round_activation",
)  # fmt: skip
"""The interventions with a typed method on `Scope`; the others are installed with `scope.intervene`."""

COMMON = ("clip", "clamp", "scale", "reverse", "stop", "noise")
"""The interventions with a separate command (`gradscope clip`) and a method of `Client`."""
