"""Functions that return their input unchanged and modify its gradient in the backward pass."""

from gradscope.functional.change import change_gradient
from gradscope.functional.clamp import clamp_gradient
from gradscope.functional.clip import clip_gradient_norm
from gradscope.functional.noise import noise_gradient
from gradscope.functional.nonfinite import replace_nonfinite_gradient
from gradscope.functional.reverse import reverse_gradient
from gradscope.functional.scale import scale_gradient
from gradscope.functional.stop import stop_gradient
from gradscope.functional.straight_through import straight_through

__all__ = [
    "change_gradient",
    "clamp_gradient",
    "clip_gradient_norm",
    "noise_gradient",
    "replace_nonfinite_gradient",
    "reverse_gradient",
    "scale_gradient",
    "stop_gradient",
    "straight_through",
]
