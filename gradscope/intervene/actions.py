"""The interventions that there are: one table. Each is a name, its arguments, and what it changes.

To add one to gradients: a function of gradients in `functional`, an entry here. What stands in
`SITES` tells where an intervention acts:

- `output`: the gradient that arrives at the layer's output, or that output itself;
- `input`: the gradient that leaves through the layer's inputs, or those inputs;
- `params`: the gradients of its parameters, and of the layers in it, before the optimizer steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.functional.clamp import clamped
from gradscope.functional.clip import clipped, clipped_together
from gradscope.functional.multiply import times
from gradscope.functional.noise import noisy
from gradscope.functional.nonfinite import replaced
from gradscope.functional.stop import zeroed
from gradscope.intervene.activations import DTYPES, added_noise, clamped_values, rounded, scaled, zeros
from gradscope.intervene.arguments import Argument, Arguments

__all__ = ["ACTIONS", "SITES", "Action", "Generator", "check_site"]

SITES = ("output", "input", "params")
AROUND = ("output", "input")

Generator: TypeAlias = Callable[[torch.device], torch.Generator]
Change: TypeAlias = Callable[[Tensor, Arguments, Generator], Tensor]
Together: TypeAlias = Callable[[Sequence[Tensor], Arguments], list[Tensor]]


@dataclass(frozen=True, slots=True)
class Action:
    """One kind: `change(tensor, arguments, generator)` gives the tensor to go on with.

    `what` it changes: a `gradient` on its way back, the `value` that flows forward (with its own
    gradient), or the `passage` of the gradient past the layer. `together` does the same to several
    tensors taken as one vector. `is_linear`: it does the same to a multiple of a gradient. `is_own`: it
    is a user's function, whose result is looked at.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...]
    change: Change
    what: Literal["gradient", "value", "passage"] = "gradient"
    sites: tuple[str, ...] = SITES
    together: Together | None = None
    is_linear: bool = False
    is_own: bool = False

    def is_together(self, arguments: Arguments) -> bool:
        """Whether it takes several tensors as one."""
        return self.together is not None and arguments.get("per", "tensor") != "tensor"


def check_site(action: Action, site: str, arguments: Arguments) -> str:
    """Return the site. Raises UsageError with those that there are, or with the reason against one."""
    if site not in SITES:
        raise UsageError(f"no site {site!r}; there are: {', '.join(SITES)}")
    if site not in action.sites:
        raise UsageError(
            f"{action.name} does not act at {site!r}, only at {', '.join(action.sites)}: "
            "it changes what flows through a layer, and nothing does there"
        )
    if arguments.get("per") == "all" and site != "params":
        raise UsageError(
            f"{action.name}(per='all') acts at 'params' only: the gradients at the {site}s of several "
            "layers never exist at one moment, one is gone before the next is known"
        )
    return site


_SEED = Argument("seed", "the same seed gives the same noise", "whole", default=0.0, lowest=0.0)
_PER = Argument(
    "per",
    "whose norm: of each tensor, of all of a layer, or of all chosen layers (at params)",
    "choice",
    default="tensor",
    options=("tensor", "layer", "all"),
)


def _number(a: Arguments, name: str) -> float:
    return float(a[name])


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "reverse",
            "turn the gradient round: multiply it by -alpha",
            (Argument("alpha", "how strongly", default=1.0),),
            lambda g, a, _: times(-g, _number(a, "alpha")),
            is_linear=True,
        ),
        Action(
            "scale",
            "multiply the gradient",
            (Argument("factor", "by what"),),
            lambda g, a, _: times(g, _number(a, "factor")),
            is_linear=True,
        ),
        Action(
            "clip",
            "bound the gradient's norm",
            (Argument("max_norm", "the greatest norm", lowest=0.0, may_be_infinite=True), _PER),
            lambda g, a, _: clipped(g, _number(a, "max_norm")),
            together=lambda gs, a: clipped_together(gs, _number(a, "max_norm")),
        ),
        Action(
            "clamp",
            "bound each element of the gradient",
            (Argument("limit", "the greatest magnitude", lowest=0.0, may_be_infinite=True),),
            lambda g, a, _: clamped(g, _number(a, "limit")),
        ),
        Action(
            "stop",
            "let no gradient through: zeros",
            (),
            lambda g, _a, _g: zeroed(g),
            is_linear=True,
        ),
        Action(
            "noise",
            "add Gaussian noise to the gradient",
            (
                Argument("std", "its deviation", lowest=0.0),
                _SEED,
                Argument("relative", "as a part of the gradient's own deviation", "yes", default=False),
            ),
            lambda g, a, draw: noisy(
                g, _number(a, "std"), draw(g.device), is_relative=bool(a["relative"])
            ),
        ),
        Action(
            "replace_nonfinite",
            "put a number for NaN and infinities in the gradient",
            (Argument("value", "the number", default=0.0),),
            lambda g, a, _: replaced(g, _number(a, "value")),
        ),
        Action(
            "straight_through",
            "pass the output's gradient to the layer's input as it is; the layer itself learns nothing",
            (),
            lambda g, _a, _g: g,
            what="passage",
            sites=("output",),
        ),
        Action(
            "scale_activation",
            "multiply what the layer computes",
            (Argument("factor", "by what"),),
            lambda x, a, _: scaled(x, _number(a, "factor")),
            what="value",
            sites=AROUND,
        ),
        Action(
            "clamp_activation",
            "bound each element of what the layer computes",
            (Argument("limit", "the greatest magnitude", lowest=0.0, may_be_infinite=True),),
            lambda x, a, _: clamped_values(x, _number(a, "limit")),
            what="value",
            sites=AROUND,
        ),
        Action(
            "zero_activation",
            "put zeros for what the layer computes (ablation)",
            (),
            lambda x, _a, _g: zeros(x),
            what="value",
            sites=AROUND,
        ),
        Action(
            "noise_activation",
            "add Gaussian noise to what the layer computes",
            (Argument("std", "its deviation", lowest=0.0), _SEED),
            lambda x, a, draw: added_noise(x, _number(a, "std"), draw(x.device)),
            what="value",
            sites=AROUND,
        ),
        Action(
            "round_activation",
            "round what the layer computes to a lower precision",
            (
                Argument(
                    "dtype",
                    "the precision",
                    "choice",
                    default="bfloat16",
                    options=tuple(DTYPES),
                ),
            ),
            lambda x, a, _: rounded(x, str(a["dtype"])),
            what="value",
            sites=AROUND,
        ),
    )
}
"""What gradscope brings along; `own.py` has those of a script."""
