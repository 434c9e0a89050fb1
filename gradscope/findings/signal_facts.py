"""`StepSignals`: what is measured in addition to the columns in some observed steps, as plain data.

It covers the inputs of the model, single units, the variation over the batch, and updates that rounding removes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "BatchTensor",
    "FedLayer",
    "LayerOutput",
    "LayerUnits",
    "LayerUpdates",
    "Source",
    "StepSignals",
    "mixed_digest",
]

Source: TypeAlias = Literal["", "whole", "part", "held"]
"""Where equal batches come from: `whole`: they are the whole data set; `part`: the process holds more samples of
this kind; `held`: another tensor with these contents stays alive. Empty: not known."""


@dataclass(frozen=True, slots=True)
class BatchTensor:
    """A tensor that the script gave to the model.

    place: which argument of which module. digest: of dtype, shape and contents.
    is_same_object: it is the tensor of the previous such step, or a view of the same tensor.
    is_regular: constant, or evenly spaced values: what a program makes again in each step on purpose.
    are_samples_equal: whether all samples are the same; None for fewer than two samples, and if the tensor was
        expanded, which is done on purpose.
    """

    place: str
    dtype: str
    shape: tuple[int, ...]
    digest: int
    is_same_object: bool = False
    is_regular: bool = False
    are_samples_equal: bool | None = None


@dataclass(frozen=True, slots=True)
class FedLayer:
    """A layer with weights whose input is data: no layer with weights ran before it, or the script gave it this tensor.

    feature: the index of the feature with the largest root mean square; features are along dimension 1 of a
    convolution's input, and along the last one otherwise. feature_rms: that of this feature.
    feature_share: its share of the sum of squares. is_normalized: a normalization follows the layer.
    """

    layer: str
    dtype: str
    samples: int
    mean: float
    std: float
    min: float
    max: float
    features: int = 1
    feature: int = 0
    feature_rms: float = 0.0
    feature_share: float = 0.0
    is_normalized: bool = False

    @property
    def rms(self) -> float:
        """The root mean square."""
        return float((self.mean**2 + self.std**2) ** 0.5)


@dataclass(frozen=True, slots=True)
class LayerUnits:
    """The units of a layer after its ReLU. layers: the layer, and the module of the ReLU if it is one.

    dead: the units that are zero for all samples. always_on: how many are above zero for all samples.
    """

    layers: tuple[str, ...]
    units: int
    dead: frozenset[int]
    always_on: int
    samples: int


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """How much the output of a layer varies over the batch.

    is_final: the script receives it. is_narrow: the layer has fewer outputs than inputs.
    spread: the variance over dimension 0, averaged over all positions. power: the mean square.
    precision: the relative spacing of the dtype. per_sample: values per sample.
    """

    layer: str
    samples: int
    per_sample: int
    spread: float
    power: float
    precision: float
    is_final: bool = False
    is_narrow: bool = False


@dataclass(frozen=True, slots=True)
class LayerUpdates:
    """What became of the updates of a parameter, over sampled elements.

    elements: of the whole parameter. sampled: how many were read. moving: those of them with a gradient. lost: those of
    the moving ones that did not change and whose step is below the spacing of the number format.
    underflown: of the moving ones, the gradients that have lost digits in float16: they are below 2^-17, if all of the
        sample are multiples of the least number of float16; otherwise 0.
    arrives_later: the optimizer may add up what is lost (unknown to PyTorch).
    change: the norm of the update relative to that of the first weights; 0 if these are zero.
    """

    layer: str
    name: str
    dtype: str
    elements: int
    moving: int
    lost: int
    learning_rate: float
    largest_learning_rate: float
    arrives_later: bool = False
    change: float = 0.0
    underflown: int = 0
    sampled: int = 0


@dataclass(frozen=True, slots=True)
class StepSignals:
    """What was measured in one step. outputs: in the order in which the layers ran."""

    step: int
    batch: tuple[BatchTensor, ...] = ()
    fed: tuple[FedLayer, ...] = ()
    units: tuple[LayerUnits, ...] = ()
    outputs: tuple[LayerOutput, ...] = ()
    updates: tuple[LayerUpdates, ...] = field(default=())

    @property
    def digest(self) -> int:
        """One digest of all inputs of the step."""
        return mixed_digest(tensor.digest for tensor in self.batch)


def mixed_digest(digests: Iterable[int]) -> int:
    """Return one digest of 64 bits of several, in their order."""
    mixed = 0
    for digest in digests:
        mixed = (mixed * 0x9E3779B97F4A7C15 + digest) & 0xFFFFFFFFFFFFFFFF
    return mixed
