"""All diagnoses by step. `findings/doctor_codes.py` declares their codes, `checklist.py` the lines of the checklist."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from gradscope.doctor import step_numbers
from gradscope.doctor.diagnoses.contract import (
    context,
    failures,
    inplace_writes,
    magnitudes,
    needs_input_grad,
    repeated_calls,
    returned_gradients,
    source_patterns,
    variations,
)
from gradscope.doctor.diagnoses.gradients import (
    approximate,
    builtin,
    gradcheck,
    second_order,
    wrong_gradient,
)
from gradscope.doctor.examination import Examination
from gradscope.doctor.step_numbers import Numbers
from gradscope.findings import Finding

__all__ = ["STEPS", "Diagnosis", "PlannedStep"]

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
            magnitudes.find_nonfinite_outputs,
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
            magnitudes.find_nonfinite_gradients,
            repeated_calls.find_nondeterminism,
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
        (magnitudes.find_odd_magnitudes,),
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
            variations.find_layout_failures,
            variations.find_subset_failures,
            variations.find_option_failures,
            variations.find_batch_failures,
            second_order.find_second_order_faults,
            gradcheck.find_gradcheck_failures,
            builtin.find_reimplementations,
        ),
        step_numbers.derivatives_in_full,
    ),
)
