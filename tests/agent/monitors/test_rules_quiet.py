"""The default rules tell nothing of healthy trainings: the benchmark's own, over fewer steps."""

import importlib.util
from pathlib import Path

import pytest

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
def test_default_rules_report_nothing_for_a_healthy_training(name):
    alerts, losses = quiet_rules.alerts_of(name, 200)
    assert alerts == []
    assert losses[-1] < 0.9 * losses[0]
