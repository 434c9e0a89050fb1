"""The table of all codes: what each means, and which other findings it explains."""

from dataclasses import dataclass

from gradscope.errors import UsageError

__all__ = ["CODES", "Code", "code_of"]


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding. `explains`: the codes of findings that are consequences of this one."""

    name: str
    meaning: str
    explains: tuple[str, ...] = ()


CODES: dict[str, Code] = {
    code.name: code
    for code in (
        Code(
            "nonfinite",
            "a tensor contains NaN, or a gradient, a parameter or an update contains an infinity",
            explains=("loss-spike", "gradient-spike", "exploding-gradient", "dead-units"),
        ),
        Code(
            "stale-optimizer",
            "an optimizer holds tensors that the model no longer has",
            explains=("not-in-optimizer",),
        ),
        Code("not-in-optimizer", "gradients arrive at parameters that no optimizer holds"),
        Code("in-two-optimizers", "two optimizers update the same parameter"),
        Code("frozen", "an optimizer holds parameters with requires_grad=False"),
        Code("no-gradient", "no gradient arrives at a parameter that an optimizer holds"),
        Code("never-zeroed", "gradients of earlier steps are added to those of the next step"),
        Code("eval-mode", "Dropout or BatchNorm is in eval mode in steps that train"),
        Code("batchnorm-batch-size-one", "BatchNorm normalizes over very few values"),
        Code("dropout-too-strong", "dropout removes nine tenths of the values or more"),
        Code("tied-weights-broken", "weights that were one tensor are two"),
        Code("double-softmax", "a softmax or sigmoid is applied in the model and in the loss"),
        Code("wrong-softmax-dim", "a softmax normalizes over the batch"),
        Code("loss-broadcast", "a loss compares each prediction with every target"),
        Code("relu-at-output", "a ReLU before a loss that needs negative values"),
        Code("linear-chain", "two linear layers with nothing non-linear between them"),
        Code(
            "learning-rate-too-high",
            "updates are large compared with the weights",
            explains=(
                "loss-spike",
                "gradient-spike",
                "exploding-gradient",
                "dead-units",
                "saturated-activation",
            ),
        ),
        Code("learning-rate-too-low", "updates are tiny compared with the weights"),
        Code("exploding-gradient", "gradients are very large", explains=("loss-spike",)),
        Code("vanishing-gradient", "gradients are tiny compared with those of other layers"),
        Code("gradient-spike", "a gradient far above its own past", explains=("loss-spike",)),
        Code("loss-spike", "a loss far above its own past"),
        Code("dead-units", "the output of a layer is zero", explains=("vanishing-gradient",)),
        Code(
            "saturated-activation",
            "a bounded activation is at its bounds",
            explains=("vanishing-gradient",),
        ),
    )
}


def code_of(name: str) -> Code:
    """Return the code with this name. Raises UsageError with the known names if there is none."""
    try:
        return CODES[name]
    except KeyError:
        raise UsageError(
            f"unknown code {name!r} of a finding; expected one of: {', '.join(CODES)}"
        ) from None
