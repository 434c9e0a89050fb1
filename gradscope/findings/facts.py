"""`WiringFacts`: how model, parameters and optimizers are connected in one step. No tensor is read."""

from dataclasses import dataclass

__all__ = ["LayerFacts", "OptimizerFacts", "OutputForm", "ParameterFacts", "WiringFacts"]


@dataclass(frozen=True, slots=True)
class ParameterFacts:
    """One name of a parameter. A parameter with two names (tied weights) has two entries.

    layer: the name of the module that owns it. key: equal for two names of the same tensor.
    optimizers: positions in `WiringFacts.optimizers`.
    has_gradient: whether the optimizer finds a gradient. left_gradient: whether the gradient of an
        earlier step was still there when the backward pass began; None if that was not checked.
    is_registered: False for a parameter in a plain list or dict, which `model.parameters()` does not have.
    """

    name: str
    layer: str
    key: int
    shape: tuple[int, ...]
    is_trainable: bool
    has_gradient: bool
    optimizers: tuple[int, ...] = ()
    left_gradient: bool | None = None
    is_registered: bool = True

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True, slots=True)
class OutputForm:
    """The number format ("float32") and the number of dimensions of an output."""

    dtype: str
    rank: int


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One module. `type` is the name of its class.

    has_run: whether it ran in the forward pass; None if the step was not observed.
    depends_on_mode: whether it computes something else in eval mode: Dropout, BatchNorm.
    dropout: the probability of a Dropout, or of that inside of an LSTM or an attention. channels: of a
        BatchNorm; 0 for other modules.
    values_per_channel: over how many values a BatchNorm normalizes; None if not known.
    form, first_form: of its output, now and when the run began; None if not known, or if it has several.
    has_run_without_graph: whether it ran in training mode, but only under no_grad; None if the step was not watched.
    """

    name: str
    type: str
    is_training: bool
    has_run: bool | None = None
    depends_on_mode: bool = False
    dropout: float | None = None
    channels: int = 0
    values_per_channel: float | None = None
    form: OutputForm | None = None
    first_form: OutputForm | None = None
    has_run_without_graph: bool | None = None


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """One optimizer that holds parameters of the model, or that was named in `attach`.

    has_stepped: whether it stepped in this step. held: how many tensors it holds. foreign_shapes: the
    shapes of the tensors among them that the model does not have. has_gradient: whether any of its
    tensors had a gradient when it stepped.
    """

    type: str
    has_stepped: bool
    held: int
    foreign_shapes: tuple[tuple[int, ...], ...] = ()
    has_gradient: bool = True


@dataclass(frozen=True, slots=True)
class WiringFacts:
    """The facts of one step, taken when the optimizers have stepped.

    is_training: whether the model itself is in training mode. layers: in the order of `named_modules`.
    tied_at_attach: groups of names that shared one parameter when the run began.
    clipped_at_scale: the loss scale that gradients still had when the script clipped them, 1 if they had none; None
        if they were not clipped, or if that was not checked.
    """

    step: int
    is_training: bool
    parameters: tuple[ParameterFacts, ...]
    layers: tuple[LayerFacts, ...]
    optimizers: tuple[OptimizerFacts, ...]
    tied_at_attach: tuple[tuple[str, ...], ...] = ()
    clipped_at_scale: float | None = None
