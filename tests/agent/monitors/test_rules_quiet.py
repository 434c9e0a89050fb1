"""The default rules tell nothing of healthy trainings: the benchmark's own, over fewer steps."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_PATH = Path(__file__).parents[3] / "benchmarks" / "quiet_rules.py"
_SPEC = importlib.util.spec_from_file_location("quiet_rules", _PATH)
quiet_rules = importlib.util.module_from_spec(_SPEC)


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    import sys

    sys.modules["quiet_rules"] = quiet_rules  # its dataclass looks itself up
    _SPEC.loader.exec_module(quiet_rules)
    yield
    del sys.modules["quiet_rules"]


@pytest.mark.parametrize("name", ["resnet", "lstm"])
def test_nothing_is_found_in_a_healthy_training(name):
    findings, losses = quiet_rules.findings_of(name, 100)
    assert findings == ()
    assert losses[-1] < 0.9 * losses[0]
