"""Programs that catch a careless observer: bare against attached."""

import pytest
from cases import backward, calling, living, numbers, optimizing, outputs

GROUPS = {"outputs": outputs.CASES, "calling": calling.CASES, "backward": backward.CASES,
          "optimizing": optimizing.CASES, "numbers": numbers.CASES, "living": living.CASES}
ALL = [pytest.param(group, case, id=f"{group}: {case}") for group, cases in GROUPS.items() for case in cases]


@pytest.mark.parametrize(("group", "case"), ALL)
def test_a_nasty_program_trains_the_same(group, case, conforms):
    conforms(group, case)
