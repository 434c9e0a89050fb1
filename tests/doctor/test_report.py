"""The JSON of a report, compared with a golden file. `python tests/doctor/test_report.py` writes the file."""

import json
import re
from pathlib import Path

import torch
from torch.autograd import Function

from gradscope.doctor import ExaminationStep, Report, examine
from gradscope.findings import VERSION, finding

GOLDEN = Path(__file__).parent / "golden" / "report.json"


class Flipped(Function):
    """-x² for x², kept on ctx: two findings, one of them with a line from the source."""

    @staticmethod
    def forward(ctx, x, scale=1.0):
        ctx.x = x
        return x**2

    @staticmethod
    def backward(ctx, dy):
        return (-2 * ctx.x * dy, None)[: len(ctx.needs_input_grad)]


def steady(value):
    """Return what is the same on every machine: times, paths and the digits of errors left out."""
    if isinstance(value, dict):
        return {
            k: 0.0 if k == "time_s" or k.endswith("_time_s") else steady(v) for k, v in value.items()
        }
    if isinstance(value, list):
        return [steady(v) for v in value]
    if isinstance(value, str):
        value = re.sub(r"\S*test_report\.py:\d+", "test_report.py:0", value)
        return re.sub(r"error \d\.\de[+-]\d+", "error 0", value)
    return value


def make_report():
    report = examine(Flipped, torch.tensor([0.5, 1.0, -2.0], requires_grad=True), 2.0)
    return steady(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


def test_the_json_of_a_report_is_the_golden_one():
    got = make_report()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["version"] == VERSION == 1
    assert got == golden


def test_numbers_that_json_does_not_have_become_strings():
    step = ExaminationStep(
        1, "forward", "failed", {"largest": float("inf"), "rows": [[float("nan"), 1.0]]}, 0.1
    )
    report = Report.of(
        "f", [finding("forward-nonfinite", "m", evidence={"first": float("nan")})], steps=(step,)
    )
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["steps"][0]["numbers"] == {"largest": "inf", "rows": [["nan", 1.0]]}
    assert data["findings"][0]["evidence"] == {"first": "nan"}
    assert Report.from_dict(data).codes == ("forward-nonfinite",)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(make_report(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
