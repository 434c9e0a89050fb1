"""The interventions of the catalogue, each with the tensor function that implements it.

To add an intervention, add an entry to `gradscope/catalogue/interventions.py` and its function here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from gradscope.catalogue import INTERVENTIONS, Arguments, InterventionSpec
from gradscope.functional.clamp import clamped
from gradscope.functional.clip import clipped, clipped_together
from gradscope.functional.multiply import times
from gradscope.functional.noise import noisy
from gradscope.functional.nonfinite import replaced
from gradscope.functional.stop import zeroed
from gradscope.intervene.activations import added_noise, clamped_values, rounded, scaled, zeros

__all__ = ["ACTIONS", "Action", "GeneratorOf", "Transform"]

GeneratorOf: TypeAlias = Callable[[torch.device], torch.Generator]
Transform: TypeAlias = Callable[[Tensor, Arguments, GeneratorOf], Tensor]
"""Returns the new gradient or activation, from the old one, the arguments and a generator by device."""

JointTransform: TypeAlias = Callable[[Sequence[Tensor], Arguments], list[Tensor]]


@dataclass(frozen=True, slots=True)
class Action:
    """An intervention that can be applied to tensors: a catalogue entry, or a function of the script.

    `transform_jointly` transforms several tensors as one vector. `is_own`: `transform` calls a function
    of the user, and its result is checked.
    """

    spec: InterventionSpec
    transform: Transform
    transform_jointly: JointTransform | None = None
    is_own: bool = False

    def is_joint(self, arguments: Arguments) -> bool:
        """Return whether several tensors are transformed as one vector."""
        return self.transform_jointly is not None and arguments.get("per", "tensor") != "tensor"


def _float_argument(a: Arguments, name: str) -> float:
    return float(a[name])


_TRANSFORMS: Mapping[str, Transform] = {
    "reverse": lambda g, a, _: times(-g, _float_argument(a, "alpha")),
    "scale": lambda g, a, _: times(g, _float_argument(a, "factor")),
    "clip": lambda g, a, _: clipped(g, _float_argument(a, "max_norm")),
    "clamp": lambda g, a, _: clamped(g, _float_argument(a, "limit")),
    "stop": lambda g, _a, _g: zeroed(g),
    "noise": lambda g, a, generator_of: noisy(
        g, _float_argument(a, "std"), generator_of(g.device), is_relative=bool(a["relative"])
    ),
    "replace_nonfinite": lambda g, a, _: replaced(g, _float_argument(a, "value")),
    "straight_through": lambda g, _a, _g: g,
    "scale_activation": lambda x, a, _: scaled(x, _float_argument(a, "factor")),
    "clamp_activation": lambda x, a, _: clamped_values(x, _float_argument(a, "limit")),
    "zero_activation": lambda x, _a, _g: zeros(x),
    "noise_activation": lambda x, a, generator_of: added_noise(
        x, _float_argument(a, "std"), generator_of(x.device)
    ),
    "round_activation": lambda x, a, _: rounded(x, str(a["dtype"])),
}

_JOINT_TRANSFORMS: Mapping[str, JointTransform] = {
    "clip": lambda gs, a: clipped_together(gs, _float_argument(a, "max_norm")),
}

ACTIONS: Mapping[str, Action] = {
    name: Action(spec, _TRANSFORMS[name], _JOINT_TRANSFORMS.get(name))
    for name, spec in INTERVENTIONS.items()
}
"""The built-in interventions; `custom.py` has the registered ones of the script."""
