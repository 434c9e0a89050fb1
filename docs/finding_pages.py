"""Runs the program on the page of a code with gradscope attached, and writes what gradscope says into the page.

`python docs/finding_pages.py [CODE...]`: the pages of these codes, or all that need one
process. A page that is new needs an empty block of text below "On the screen".
"""

import contextlib
import io
import re
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

import gradscope
from gradscope.findings import CODES, Verdict
from gradscope.findings.explanation import HEADINGS, PAGES, page_of

__all__ = ["Outcome", "run_page"]

_WIDTH = 72
"""Fits a card of the terminal UI on 80 columns."""


class Outcome:
    """What happened on a page: the `verdict` on its program, and what its confirmation printed and promised."""

    def __init__(self, code: str) -> None:
        page = page_of(code)
        parts = dict(zip(HEADINGS, re.split(r"^## .*\n", page, flags=re.MULTILINE)[1:], strict=True))
        (program,) = _blocks(parts["On the screen"])
        torch.manual_seed(0)
        names: dict[str, Any] = {"gradscope": gradscope, "nn": nn, "torch": torch}
        attach = partial(gradscope.attach, hub=None, quiet=True, every=1)
        with patch.object(gradscope, "attach", attach):
            _run(program, names)
        scope: gradscope.Scope = names["scope"]
        self.verdict: Verdict = scope.diagnose()
        self.faults = dict(scope.faults)
        scope.detach()
        printed = io.StringIO()
        confirmation = "".join(_blocks(parts["How to confirm it"]))
        with contextlib.redirect_stdout(printed):
            _run(confirmation, names)
        self.promised = re.findall(r"\)  # (True|False)\b", confirmation)
        self.printed = [line for line in printed.getvalue().splitlines() if line in ("True", "False")]
        for block in _blocks(parts["How to fix it"]):
            _run(block, names)
        names.clear()  # a graph with a custom Function would keep the model and the optimizer otherwise


def run_page(code: str) -> Outcome:
    """Run the program, the confirmation and the fix of a page."""
    return Outcome(code)


def _run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "page", "exec"), names)  # noqa: S102 - the pages are part of this project


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write the pages."""
    for code in sys.argv[1:] or set(CODES) - {"replicas-differ", "resume-mismatch"}:
        verdict = run_page(code).verdict
        text = "\n".join(verdict.lines(width=_WIDTH))
        page = re.sub(
            r"^```text\n.*?^```", lambda _: f"```text\n{text}\n```",  # noqa: B023 - used at once
            page_of(code), count=1, flags=re.MULTILINE | re.DOTALL,
        )  # fmt: skip
        (PAGES / f"{code}.md").write_text(page, encoding="utf-8")
        found = [each.code for each in verdict.every()]
        print(f"{code}: {', '.join(found)}{'' if code in found else '  <- NOT FOUND'}")


if __name__ == "__main__":
    main()
