"""The page of each code: what it looks like on the screen, why it happens, how to confirm it and how to fix it."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradscope.findings.codes import CODES, code_of

__all__ = ["HEADINGS", "PAGES", "explanation_as_json", "list_of_codes", "page_of", "page_text"]

PAGES = Path(__file__).with_name("pages")
"""The folder of the pages, in Markdown: one `CODE.md` for each code."""

HEADINGS = (
    "On the screen",
    "Why it happens",
    "How to confirm it",
    "How to fix it",
    "What looks alike and is right",
)
"""The headings of each page, in order."""


def page_text(code: str, width: int) -> str:
    """Return the page of a code with its paragraphs wrapped at `width` columns; programs stay as they are.

    Raises UsageError as `page_of` does.
    """
    lines: list[str] = []
    paragraph: list[str] = []
    is_code = False
    for line in [*page_of(code).splitlines(), ""]:
        is_fence = line.startswith("```")
        is_text = not is_code and not is_fence and line and not line.startswith("#")
        if paragraph and (not is_text or line.startswith("- ")):
            indent = "  " if paragraph[0].startswith("- ") else ""
            lines += textwrap.wrap(" ".join(paragraph), width, subsequent_indent=indent)
            paragraph = []
        if is_text:
            paragraph.append(line.strip())
        else:
            lines.append(line)
        is_code ^= is_fence
    return "\n".join(lines).rstrip()


def page_of(code: str) -> str:
    """Return the page of a code as Markdown. Raises UsageError with the known codes if there is no such code.

    The codes of the function doctor have no page of their own: what the table says about them is returned.
    """
    found = code_of(code)
    if found.name in CODES:
        return (PAGES / f"{found.name}.md").read_text(encoding="utf-8")
    return (
        f"# {found.name}\nThe function doctor reports: {found.meaning}.\n\n"
        f"## Why it happens\n{found.cause}.\n\n## How to fix it\n{found.fix}.\n"
    )


def explanation_as_json(code: str | None) -> dict[str, Any]:  # Any: what JSON takes
    """Return all codes, or one code with its page as Markdown, for JSON. Raises UsageError as `page_of` does."""
    if code is None:
        return {"codes": [asdict(each) for each in CODES.values()]}
    return {"code": asdict(code_of(code)), "page": page_of(code)}


def list_of_codes() -> str:
    """Return all codes with their severity and meaning, one a line."""
    width = max(map(len, CODES))
    return "\n".join(
        f"{code.name:{width}}  {code.severity:7}  {code.meaning}" for code in CODES.values()
    )
