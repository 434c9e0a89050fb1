"""The functions of `gradscope.functional` as modules: to be put between the layers of a model."""

from gradscope.nn.modules import (
    GradientClamp,
    GradientClip,
    GradientNoise,
    GradientReversal,
    GradientScale,
    StopGradient,
    StraightThrough,
)

__all__ = [
    "GradientClamp",
    "GradientClip",
    "GradientNoise",
    "GradientReversal",
    "GradientScale",
    "StopGradient",
    "StraightThrough",
]
