"""Two dozen model families of Hugging Face transformers: bare against attached."""

import pytest

pytest.importorskip("transformers", reason="model families need transformers: pip install transformers")

from cases.families import CASES


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_family_trains_the_same(case, conforms):
    conforms("model families", case)
