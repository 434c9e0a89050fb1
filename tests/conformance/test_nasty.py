"""Programs that catch a careless observer: bare against attached."""

import pytest
from cases import (
    backward,
    calling,
    checkpoints,
    living,
    modes,
    numbers,
    optimizing,
    outputs,
    parameters,
)

pytestmark = pytest.mark.slow

ROOMS = (outputs, calling, checkpoints, backward, modes, optimizing, parameters, numbers, living)
ALL = [(room.__name__.rpartition(".")[2], case) for room in ROOMS for case in room.CASES]


@pytest.mark.parametrize(("group", "case"), ALL, ids=[f"{group}: {case}" for group, case in ALL])
def test_an_adversarial_program_trains_the_same(group, case, conforms):
    conforms(group, case)
