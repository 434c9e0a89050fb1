"""All diagnoses: the step to which each belongs, their codes, and the checklist.

To add a diagnosis, write its module and register it here: add its function to `STEPS`, its codes to `_CODES` and, if
it has one, its line to `CHECKLIST`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from gradscope.doctor import checklist, step_numbers
from gradscope.doctor.checklist import ChecklistLine
from gradscope.doctor.diagnoses.contract import (
    context,
    determinism,
    failures,
    inplace_writes,
    layouts,
    needs_input_grad,
    nonfinite,
    options,
    repeated_calls,
    returned_gradients,
    shapes,
    source_patterns,
)
from gradscope.doctor.diagnoses.gradients import (
    approximate,
    builtin,
    by_design,
    gradcheck,
    magnitude,
    second_order,
    transpose,
    wrong_gradient,
)
from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import Finding
from gradscope.doctor.step_numbers import Numbers

__all__ = ["CHECKLIST", "CODES", "STEPS", "Diagnosis", "PlannedStep"]

Diagnosis: TypeAlias = Callable[[Examination], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One of the five steps: its diagnoses in order, and the numbers that the report shows for it.

    A numerical step is skipped if an earlier step sets `Examination.skip_reason`.
    """

    number: int
    title: str
    diagnoses: tuple[Diagnosis, ...]
    numbers: Callable[[Examination], Numbers]
    is_numerical: bool = True


STEPS: Final = (
    PlannedStep(
        1,
        "forward runs: shape, NaN, Inf",
        (
            failures.find_forward_failures,
            inplace_writes.find_modified_inputs,
            context.find_tensors_on_context,
            context.find_returned_inputs,
            context.find_uses_of_data,
            nonfinite.find_nonfinite_outputs,
            source_patterns.find_wrong_counts_in_source,
            source_patterns.find_hard_coded_devices,
            source_patterns.find_uncalled_backward,
            source_patterns.note_hard_coded_dtypes,
        ),
        step_numbers.shapes_of_forward,
        is_numerical=False,
    ),
    PlannedStep(
        2,
        "backward runs: shapes, NaN, Inf",
        (
            failures.find_backward_failures,
            inplace_writes.find_modified_gradients,
            returned_gradients.find_mismatched_gradients,
            nonfinite.find_nonfinite_gradients,
            determinism.find_nondeterminism,
            repeated_calls.find_unrepeatable_backward,
            repeated_calls.find_state_outside_ctx,
            needs_input_grad.find_wasted_work,
        ),
        step_numbers.gradient_shapes,
        is_numerical=False,
    ),
    PlannedStep(
        3,
        "magnitudes: 1e-6 to 1e6",
        (magnitude.find_odd_magnitudes,),
        step_numbers.gradient_magnitudes,
    ),
    PlannedStep(
        4,
        "one element by hand: central difference",
        (approximate.find_poor_approximations, wrong_gradient.find_wrong_gradients),
        step_numbers.one_element_by_hand,
    ),
    PlannedStep(
        5,
        "in full: gradcheck, gradgradcheck, shapes, options",
        (
            layouts.find_layout_failures,
            options.find_subset_failures,
            options.find_option_failures,
            shapes.find_batch_failures,
            second_order.find_second_order_faults,
            gradcheck.find_gradcheck_failures,
            builtin.find_reimplementations,
        ),
        step_numbers.derivatives_in_full,
    ),
)

_CODES: Final = (
    failures.NON_TENSOR_SAVED,
    failures.SAVED_TENSORS_IN_FORWARD,
    inplace_writes.FORWARD_INPLACE_INPUT,
    inplace_writes.GRAD_OUTPUT_MODIFIED,
    inplace_writes.SAVED_TENSOR_MODIFIED,
    failures.FORWARD_RAISES,
    nonfinite.FORWARD_NONFINITE,
    failures.WRONG_GRADIENT_COUNT,
    transpose.MISSING_TRANSPOSE,
    returned_gradients.GRADIENT_SHAPE_MISMATCH,
    returned_gradients.GRADIENT_DEVICE_MISMATCH,
    failures.BACKWARD_RAISES,
    nonfinite.GRADIENT_NONFINITE,
    returned_gradients.BROADCAST_NOT_REDUCED,
    returned_gradients.GRADIENT_DTYPE_MISMATCH,
    wrong_gradient.MISSING_GRADIENT,
    wrong_gradient.WRONG_GRADIENT_SIGN,
    wrong_gradient.WRONG_GRADIENT_SCALE,
    wrong_gradient.WRONG_GRADIENT,
    approximate.APPROXIMATE_POOR,
    context.USES_DATA,
    context.SAVED_ON_CTX,
    second_order.GRAPH_BROKEN,
    second_order.WRONG_SECOND_GRADIENT,
    layouts.FAILS_ON_NONCONTIGUOUS,
    layouts.FAILS_ON_EXPANDED_GRADIENT,
    determinism.NONDETERMINISTIC,
    second_order.NOT_TWICE_DIFFERENTIABLE,
    shapes.FAILS_ON_EMPTY,
    source_patterns.BACKWARD_NEVER_CALLED,
    magnitude.GRADIENT_TOO_LARGE,
    magnitude.GRADIENT_TOO_SMALL,
    needs_input_grad.IGNORES_NEEDS_INPUT_GRAD,
    approximate.APPROXIMATE_NOTICEABLE,
    by_design.GRADIENT_BY_DESIGN,
    context.INPUT_RETURNED_AS_IS,
    builtin.REIMPLEMENTS_BUILTIN,
)
"""From causes to consequences: a code precedes the codes that it explains. Among findings of one severity,
the report shows the finding with the earlier code first."""

CODES: Final[Mapping[str, Code]] = {code.name: code for code in _CODES}

CHECKLIST: Final = (
    ChecklistLine(
        "forward runs and is finite",
        (failures.FORWARD_RAISES, nonfinite.FORWARD_NONFINITE),
        checklist.always,
    ),
    ChecklistLine(
        "save_for_backward saves all tensors, and only tensors",
        (context.SAVED_ON_CTX, failures.NON_TENSOR_SAVED),
        checklist.if_function_ran,
    ),
    ChecklistLine(
        "saved_tensors is read only in backward",
        (failures.SAVED_TENSORS_IN_FORWARD,),
        checklist.if_function_ran,
    ),
    ChecklistLine(
        "inputs are not changed in place",
        (inplace_writes.FORWARD_INPLACE_INPUT,),
        checklist.if_function_ran,
    ),
    ChecklistLine(
        "grad_output and saved tensors are not changed",
        (inplace_writes.GRAD_OUTPUT_MODIFIED, inplace_writes.SAVED_TENSOR_MODIFIED),
        checklist.if_function_ran,
    ),
    ChecklistLine(
        "one gradient is returned for each argument",
        (failures.WRONG_GRADIENT_COUNT,),
        checklist.if_function_ran,
    ),
    ChecklistLine(
        "each gradient has the shape, dtype and device of its argument",
        (
            returned_gradients.GRADIENT_SHAPE_MISMATCH,
            returned_gradients.BROADCAST_NOT_REDUCED,
            returned_gradients.GRADIENT_DTYPE_MISMATCH,
            returned_gradients.GRADIENT_DEVICE_MISMATCH,
        ),
        checklist.if_function_ran,
    ),
    ChecklistLine(
        "backward checks needs_input_grad",
        (needs_input_grad.IGNORES_NEEDS_INPUT_GRAD,),
        checklist.if_several_inputs_need_gradients,
    ),
    ChecklistLine(
        ".detach() is used and not .data", (context.USES_DATA,), checklist.if_source_was_read
    ),
    ChecklistLine(
        "the gradient is the derivative",
        (
            wrong_gradient.WRONG_GRADIENT,
            wrong_gradient.WRONG_GRADIENT_SIGN,
            wrong_gradient.WRONG_GRADIENT_SCALE,
            transpose.MISSING_TRANSPOSE,
            wrong_gradient.MISSING_GRADIENT,
            by_design.GRADIENT_BY_DESIGN,
        ),
        checklist.if_numbers_were_compared,
    ),
    ChecklistLine(
        "an approximate gradient was measured",
        (approximate.APPROXIMATE_POOR,),
        checklist.if_approximate,
    ),
    ChecklistLine(
        "the second derivative is right",
        (
            second_order.GRAPH_BROKEN,
            second_order.NOT_TWICE_DIFFERENTIABLE,
            second_order.WRONG_SECOND_GRADIENT,
        ),
        checklist.if_second_order_was_examined,
    ),
    ChecklistLine(
        "it runs on other layouts and on an empty batch",
        (layouts.FAILS_ON_NONCONTIGUOUS, layouts.FAILS_ON_EXPANDED_GRADIENT, shapes.FAILS_ON_EMPTY),
        checklist.if_numbers_were_compared,
    ),
    ChecklistLine(
        "it is deterministic",
        (determinism.NONDETERMINISTIC,),
        checklist.if_reproducibility_was_tested,
    ),
    ChecklistLine(
        "PyTorch has no such operation already",
        (builtin.REIMPLEMENTS_BUILTIN,),
        checklist.if_compared_with_builtins,
    ),
)
