"""The functions of `gradscope.functional` as modules, to place between the layers of a model."""

from gradscope.nn.modules import (
    GradientChange,
    GradientClamp,
    GradientClip,
    GradientNoise,
    GradientReplaceNonfinite,
    GradientReversal,
    GradientScale,
    StopGradient,
    StraightThrough,
)

__all__ = [
    "GradientChange",
    "GradientClamp",
    "GradientClip",
    "GradientNoise",
    "GradientReplaceNonfinite",
    "GradientReversal",
    "GradientScale",
    "StopGradient",
    "StraightThrough",
]
