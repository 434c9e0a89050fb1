"""Characters for terminals that have only ASCII: each other character is replaced by one of the same width."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Mapping

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

__all__ = ["ASCII_SIGNS", "AsciiFilter", "needs_ascii"]

_POOR_TERMINALS = {"linux", "vt100", "vt102", "vt220", "dumb"}

_PAIRS = (
    "·. …~ –- −- ←< →> ↑^ ↓v ±+ µu ×x ΔD ΣS σs ‖| ∇G ∞i ≠# ≤< ≥> "
    "▁. ▂_ ▃- ▄= ▅+ ▆* ▇% █@ ░. ▒: ▓% ▚* ▞* ■# ▰# ▌> ▐| ▀- ▔- ▎| ▊| ▕| "
    "─- ━- │| ┃| ┄. ┆: └+ ├+ ┤+ ┬+ ┴+ ┼+ ┌+ ┐+ ┘+ ╭+ ╮+ ╰+ ╯+ "
    "▲^ △^ ▶> ▸> ▼v ▾v ◆@ ◇o ○o ◌o ●* ✔+ ✕x ✖x ❚| �?"
)
"""Each sign and its replacement. A sign whose meaning is in its shape keeps a shape of its own."""


def _signs() -> dict[int, str]:
    signs = {ord(pair[0]): pair[1] for pair in _PAIRS.split()}
    for dots in range(256):
        high, low = dots & 0b00011011, dots & 0b11100100
        signs[0x2800 + dots] = ":" if high and low else "'" if high else "." if low else " "
    return signs


ASCII_SIGNS: Mapping[int, str] = _signs()
"""The replacement of each sign of the screen, for `str.translate`. Braille: dots above, below, or both."""


class AsciiFilter(LineFilter):
    """Replaces each character that is not ASCII; one without a replacement becomes `?`."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002 - Textual's
        """Return the segments in ASCII."""
        return [
            segment
            if segment.control or segment.text.isascii()
            else Segment(_in_ascii(segment.text), segment.style)
            for segment in segments
        ]


def _in_ascii(text: str) -> str:
    return text.translate(ASCII_SIGNS).encode("ascii", "replace").decode()


def needs_ascii(environ: Mapping[str, str]) -> bool:
    """Return whether GRADSCOPE_ASCII, the terminal or the locale asks for ASCII. Without a locale it does not."""
    chosen = environ.get("GRADSCOPE_ASCII", "")
    if chosen:
        return chosen != "0"
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    encoding = locale.partition(".")[2].partition("@")[0].lower().replace("-", "")
    return environ.get("TERM", "") in _POOR_TERMINALS or encoding not in ("", "utf8")
