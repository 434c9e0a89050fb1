"""The check of a model of which no step ends, because an optimizer holds the parameters of a copy."""

from collections import Counter

from gradscope.findings.codes import finding
from gradscope.findings.facts import WiringFacts
from gradscope.findings.finding import Finding

__all__ = ["find_copied_model"]


def find_copied_model(facts: WiringFacts) -> list[Finding]:
    """Find an optimizer that holds tensors of the shapes of all trainable parameters, and none of the model.

    None of its tensors has a gradient, but the model's parameters have: the model was copied, or its
    parameters were replaced, after the optimizer was made. Float32 copies that train a model have gradients.
    """
    trained = [parameter for parameter in facts.parameters if parameter.is_trainable]
    wanted = Counter({p.key: p.shape for p in trained}.values())
    if not any(parameter.has_gradient for parameter in trained):
        return []
    return [
        finding(
            "stale-optimizer",
            f"{optimizer.type} holds {optimizer.held} tensors with the shapes of the model's parameters, but "
            "none of them is in the model or has a gradient, so the model is not trained",
            step=facts.step,
            layers=tuple(dict.fromkeys(parameter.layer for parameter in trained)),
            evidence={
                "tensors_not_in_model": float(len(optimizer.foreign_shapes)),
                "tensors": float(optimizer.held),
            },
        )
        for optimizer in facts.optimizers
        if wanted <= Counter(optimizer.foreign_shapes) and not optimizer.has_gradient
    ][:1]
