"""The table of all codes: what each means, its usual cause and remedy, and which findings it explains."""

from collections.abc import Mapping

from gradscope.errors import UsageError
from gradscope.findings.doctor_codes import DOCTOR_CODES
from gradscope.findings.finding import Code, Confidence, Finding, Severity

__all__ = ["CODES", "code_of", "finding"]


CODES: dict[str, Code] = {
    code.name: code
    for code in (
        Code(
            "nonfinite",
            "forward",
            "error",
            "a tensor contains NaN, or a gradient, a parameter or an update contains an infinity",
            "An operation on invalid input (a division by zero, a logarithm or a root at zero or below), "
            "an overflow of the number format, or NaN in the data.",
            "Reproduce the step: gradscope capture RUN --fault, then python -m gradscope.replay.",
            explains=(
                "loss-spike",
                "gradient-spike",
                "dead-units",
                "loss-not-falling",
            ),
        ),
        Code(
            "scaler-skip",
            "backward",
            "hint",
            "the loss scaler skips steps because gradients overflow",
            "The loss scale is still too large, which is normal in the first steps. If it lasts, a gradient "
            "overflows by itself.",
            "Nothing, if it ends. If not: compute that layer in float32 or bfloat16, or divide the loss.",
        ),
        Code(
            "stale-optimizer",
            "optimizer",
            "error",
            "an optimizer holds tensors that the model no longer has",
            "The layers were replaced, or the model was converted or copied, after the optimizer was made.",
            "Make the optimizer after the last change of the model.",
            explains=("not-in-optimizer", "loss-not-falling"),
        ),
        Code(
            "not-in-optimizer",
            "optimizer",
            "warning",
            "gradients arrive at parameters that no optimizer holds",
            "The optimizer was made before these layers were added, or from a part of model.parameters().",
            "Give these parameters to the optimizer, or call requires_grad_(False) on them if they are "
            "meant to stay fixed.",
            explains=("loss-not-falling",),
        ),
        Code(
            "in-two-optimizers",
            "optimizer",
            "warning",
            "two optimizers update the same parameter",
            "The same parameters were given to more than one optimizer, so each step changes them more "
            "than once.",
            "Give each parameter to one optimizer.",
            explains=("loss-not-falling",),
        ),
        Code(
            "frozen",
            "optimizer",
            "warning",
            "an optimizer holds parameters with requires_grad=False",
            "requires_grad was switched off, for example for an earlier phase of the training, and not on "
            "again.",
            "Switch it on with requires_grad_(True), or leave these parameters out of the optimizer.",
            explains=("loss-not-falling",),
        ),
        Code(
            "no-gradient",
            "backward",
            "warning",
            "no gradient arrives at a parameter that an optimizer holds",
            "The result is not used for the loss, or the graph is cut after it: detach(), .data, .item(), "
            "argmax, NumPy, or torch.no_grad().",
            "Follow the output of the layer to the loss and remove what cuts the graph.",
            explains=("loss-not-falling",),
        ),
        Code(
            "never-zeroed",
            "backward",
            "error",
            "gradients of earlier steps are added to those of the next step",
            "optimizer.zero_grad() is not called, so each backward pass adds to the gradients of all "
            "earlier steps.",
            "Call optimizer.zero_grad() once before each backward pass.",
            explains=("loss-not-falling",),
        ),
        Code(
            "dtype-changed",
            "forward",
            "warning",
            "the output of a layer has another number format than when the run began",
            "The model was converted, for example for a validation, and not converted back, or autocast was "
            "switched on or off.",
            "Convert a copy of the model for the validation, or convert it back.",
        ),
        Code(
            "shape-changed",
            "forward",
            "warning",
            "the output of a layer has another number of dimensions than when the run began",
            "The data or a flag of the model changed: a batch dimension is missing, or a reduction is switched "
            "off.",
            "Compare the shape of the input and the flags of the model with those of the first steps.",
        ),
        Code(
            "eval-mode",
            "forward",
            "warning",
            "Dropout or BatchNorm is in eval mode in steps that train",
            "model.eval() was called, for example for a validation, and model.train() was not called after "
            "it.",
            "Call model.train() before the training steps.",
            explains=("loss-not-falling",),
        ),
        Code(
            "batchnorm-batch-size-one",
            "forward",
            "warning",
            "BatchNorm normalizes over very few values",
            "The batch is so small that its mean and variance say little about the data.",
            "Use a larger batch, or GroupNorm or LayerNorm, which do not depend on the batch.",
            explains=("loss-not-falling",),
        ),
        Code(
            "dropout-too-strong",
            "forward",
            "warning",
            "dropout removes nine tenths of the values or more",
            "p is the probability that a value is removed, not that it is kept.",
            "Use a smaller p, such as 0.1 to 0.5.",
            explains=("loss-not-falling",),
        ),
        Code(
            "clip-before-unscale",
            "backward",
            "error",
            "gradients are clipped while they still carry the loss scale",
            "scaler.unscale_(optimizer) is not called before clip_grad_norm_ or clip_grad_value_, so almost "
            "every gradient is clipped, to a tiny size after the scaler has divided it.",
            "Call scaler.unscale_(optimizer) between backward and clipping.",
            explains=("learning-rate-too-low",),
        ),
        Code(
            "tied-weights-broken",
            "optimizer",
            "warning",
            "weights that were one tensor are two",
            "One of them was replaced: by an assignment, a conversion of the model, or loading a "
            "checkpoint with assign=True.",
            "Assign the parameter again, and make the optimizer after that.",
        ),
        Code(
            "double-softmax",
            "loss",
            "error",
            "a softmax or sigmoid is applied in the model and in the loss",
            "The loss takes logits and applies the activation itself; twice, the output is almost uniform "
            "and the gradient small.",
            "Remove the activation from the model, or apply it only for predictions.",
            explains=("loss-not-falling",),
        ),
        Code(
            "wrong-softmax-dim",
            "loss",
            "warning",
            "a softmax normalizes over the batch",
            "The samples of a batch share one distribution, so each depends on the others.",
            "Use dim=-1, or the dimension of the classes.",
            explains=("loss-not-falling",),
        ),
        Code(
            "loss-broadcast",
            "loss",
            "error",
            "a loss compares each prediction with every target",
            "The shapes of prediction and target differ, as (N, 1) and (N,), so PyTorch broadcasts both.",
            "Give both the same shape: output.squeeze(1), or target.unsqueeze(1).",
            explains=("loss-not-falling",),
        ),
        Code(
            "relu-at-output",
            "loss",
            "warning",
            "a ReLU before a loss that needs negative values",
            "The output cannot be negative, and where it is zero no gradient passes.",
            "Remove the ReLU after the last layer.",
            explains=("dead-units", "loss-not-falling"),
        ),
        Code(
            "detached-loss-part",
            "loss",
            "warning",
            "a term of the loss has no gradient",
            "The term went through detach(), .data, .item(), NumPy or torch.no_grad(): it changes the value of "
            "the loss, not the training.",
            "Add the term with its gradient, or leave it out of the loss and only report it.",
        ),
        Code(
            "input-scale",
            "input",
            "warning",
            "the data is far from unit scale, or constant",
            "The data is not normalized: pixels from 0 to 255, a raw column of a table, or a constant from a "
            "fault in the data pipeline.",
            "Scale each feature to mean 0 and standard deviation 1 (of the training set), or begin the model "
            "with a normalization.",
            explains=(
                "exploding-gradient",
                "saturated-activation",
                "dead-units",
                "collapsed-output",
            ),
        ),
        Code(
            "repeated-batch",
            "input",
            "warning",
            "the same inputs in each step, or samples that are all the same",
            "A new iterator is made in each step (next(iter(loader))), the random seed is set again, or the "
            "data set ignores its index.",
            "Iterate over the loader itself, and compare two batches in the data pipeline.",
        ),
        Code(
            "collapsed-output",
            "forward",
            "warning",
            "the output does not depend on the sample",
            "The signal is lost on the way: dead or saturated units, very small weights, or an objective that "
            "a constant output minimizes.",
            "Look at the layers before the named one; in a variational autoencoder weaken the KL term, in "
            "contrastive learning use negatives or a stop-gradient.",
        ),
        Code(
            "lost-updates",
            "optimizer",
            "warning",
            "most updates are smaller than the spacing of the number format",
            "The parameters are stored in half precision, or the learning rate is tiny: w + update rounds to w.",
            "Keep the parameters in float32 and use autocast for the computation, or raise the learning rate.",
            explains=("learning-rate-too-low",),
        ),
        Code(
            "linear-chain",
            "forward",
            "warning",
            "two linear layers with nothing non-linear between them",
            "Two linear layers in a row compute what one could; an activation is missing.",
            "Put an activation between them, or use one layer.",
            explains=("loss-not-falling",),
        ),
        Code(
            "learning-rate-too-high",
            "optimizer",
            "warning",
            "updates are large compared with the weights, and the steps overshoot",
            "Each step changes the weights by so much that the gradient it was computed from says nothing "
            "about the loss after it.",
            "Lower the learning rate by about this factor, or begin with a warm-up.",
            explains=(
                "nonfinite",
                "overflow",
                "loss-spike",
                "gradient-spike",
                "exploding-gradient",
                "dead-units",
                "vanishing-gradient",
                "saturated-activation",
                "collapsed-output",
                "clipping-always",
                "loss-not-falling",
            ),
        ),
        Code(
            "learning-rate-too-low",
            "optimizer",
            "hint",
            "updates are tiny compared with the weights",
            "Each step changes the weights by a tiny part of their size.",
            "Raise the learning rate by about the factor between the limit and the ratio.",
            explains=("loss-not-falling",),
        ),
        Code(
            "no-update",
            "optimizer",
            "warning",
            "a gradient arrives, but the optimizer does not change the weights",
            "The learning rate is 0, the optimizer updates a copy of the parameters, or its step does not write.",
            "Print optimizer.param_groups[0]['lr'] in the loop, and compare id(p) of the model's parameters with those "
            "in the optimizer.",
            explains=("loss-not-falling",),
        ),
        Code(
            "weight-decay-too-strong",
            "optimizer",
            "warning",
            "weight decay outweighs the gradient, and the weights shrink towards zero",
            "The product of weight decay and learning rate is so large that each step removes more of the weights "
            "than the gradient adds.",
            "Lower weight_decay; 0.01 to 0.1 is usual for AdamW, 1e-4 for SGD.",
            explains=("vanishing-gradient", "loss-not-falling", "dead-units"),
        ),
        Code(
            "replicas-differ",
            "optimizer",
            "error",
            "parameters that should be copies are not the same on all ranks",
            "The ranks began with different parameters (no broadcast from rank 0, another seed, a checkpoint loaded on "
            "one rank), or one rank has changed them by itself.",
            "Broadcast the parameters from rank 0 before training, as DistributedDataParallel does when it is made. "
            "Change parameters on all ranks alike.",
            explains=("loss-not-falling",),
        ),
        Code(
            "resume-mismatch",
            "optimizer",
            "warning",
            "a resumed run does not continue where its earlier recording ends",
            "The checkpoint was not loaded, or lacks a part: the optimizer's state, the schedule of the learning "
            "rate, the position in the data; or start_step is not its step.",
            "Save and load the state of model, optimizer, scheduler and data loader, and pass the step of the "
            "checkpoint as attach(start_step=…).",
            explains=("loss-spike",),
        ),
        Code(
            "clipping-always",
            "optimizer",
            "warning",
            "clipping shrinks the gradient by a large factor in every step",
            "max_norm is far below the usual norm of the gradient, so max_norm sets the size of each step, and not "
            "the learning rate and the gradient.",
            "Raise max_norm to a few times the usual norm, or average the loss over the batch instead of summing it.",
        ),
        Code(
            "exploding-gradient",
            "backward",
            "warning",
            "gradients grow from layer to layer, or with time",
            "The learning rate is too high, a layer has no normalization, or the loss is a sum over many "
            "values.",
            "Clip the gradient (gradscope clip RUN LAYERS --max-norm 1) or lower the learning rate.",
            explains=("nonfinite", "overflow", "loss-spike", "clipping-always", "loss-not-falling"),
        ),
        Code(
            "overflow",
            "forward",
            "error",
            "a layer with finite weights gives an infinite output",
            "The output is beyond the range of its number format: 65,504 for float16, 3.4e38 for float32 and bfloat16.",
            "Use bfloat16 instead of float16, normalize the input of the layer, or lower the learning rate if its "
            "weights have grown.",
            explains=("nonfinite", "loss-spike", "gradient-spike", "loss-not-falling"),
        ),
        Code(
            "underflow",
            "backward",
            "warning",
            "much of a gradient is below the normal range of its number format",
            "The gradient is too small for the format (6e-5 for float16 without loss of digits), so small elements "
            "become zero.",
            "Use torch.amp.GradScaler, or bfloat16 instead of float16.",
            explains=("underflow", "vanishing-gradient", "loss-not-falling"),
        ),
        Code(
            "vanishing-gradient",
            "backward",
            "warning",
            "gradients are tiny compared with those of other layers",
            "Each layer on the way from the loss multiplies the gradient by a factor far below 1: saturated "
            "activations, small initial weights, or no residual connections.",
            "Use ReLU-like activations, normalization or residual connections, or a larger "
            "initialization.",
            explains=(
                "collapsed-output",
                "lost-updates",
                "loss-not-falling",
                "learning-rate-too-low",
            ),
        ),
        Code(
            "gradient-spike",
            "backward",
            "warning",
            "a gradient far above its own past",
            "An unusual batch, or a learning rate near the limit of stability.",
            "Clip the gradient (gradscope clip RUN LAYERS --max-norm 1) and check the batch of that step.",
            explains=("gradient-spike", "loss-spike"),
        ),
        Code(
            "loss-spike",
            "loss",
            "warning",
            "a loss far above its own past",
            "An unusual batch, or a learning rate near the limit of stability.",
            "Look at the named batch: with a fixed seed the data loader gives it again at that number. Clip gradients "
            "or lower the learning rate if other batches spike too.",
            explains=("loss-spike",),
        ),
        Code(
            "loss-not-falling",
            "loss",
            "hint",
            "the loss is where it began",
            "The model learns nothing from the data, or the loss is not expected to fall: an adversarial loss, a "
            "policy gradient, fine-tuning from a good start.",
            "Train on one batch: if its loss does not fall either, the fault is in the model or the loop, otherwise "
            "in the data.",
        ),
        Code(
            "dead-units",
            "forward",
            "warning",
            "the output of a layer is zero",
            "All inputs of a ReLU are negative, often after a step with too high a learning rate, or the "
            "input of the layer is constant.",
            "Lower the learning rate, check the initial bias, or use LeakyReLU or GELU.",
            explains=(
                "vanishing-gradient",
                "collapsed-output",
                "loss-not-falling",
            ),
        ),
        Code(
            "saturated-activation",
            "forward",
            "warning",
            "a bounded activation is at its bounds",
            "The inputs of the activation are far from zero, so its slope is almost zero.",
            "Scale the inputs, use a smaller initialization, or normalize before the activation.",
            explains=(
                "vanishing-gradient",
                "collapsed-output",
                "loss-not-falling",
            ),
        ),
    )
}


def code_of(name: str) -> Code:
    """Return the code with this name, of a run or of the doctor.

    Raises UsageError with the known names if there is none.
    """
    code = CODES.get(name) or DOCTOR_CODES.get(name)
    if code is None:
        known = ", ".join((*CODES, *DOCTOR_CODES))
        raise UsageError(f"unknown code {name!r} of a finding; expected one of: {known}")
    return code


def finding(
    name: str,
    message: str,
    *,
    cause: str | None = None,
    fix: str | None = None,
    step: int | None = None,
    since: int | None = None,
    layers: tuple[str, ...] = (),
    where: str = "",
    severity: Severity | None = None,
    confidence: Confidence | None = None,
    evidence: Mapping[str, float | str] | None = None,
    action: str = "",
) -> Finding:
    """Return a finding of the code `name`, found in `step`.

    cause, fix, severity: default: those of the code.
    confidence: default: "measured" for a Function, which the doctor runs, otherwise "structural".
    The other arguments are the fields of `Finding`.
    """
    code = code_of(name)
    return Finding(
        code=name,
        severity=severity or code.severity,
        message=message,
        cause=cause or code.cause,
        fix=fix or code.fix,
        found_step=step,
        since_step=since,
        layers=layers,
        where=where,
        place=code.place,
        confidence=confidence or ("measured" if name in DOCTOR_CODES else "structural"),
        evidence=evidence or {},
        action=action,
    )
