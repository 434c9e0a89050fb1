"""What two runs have in common besides numbers: environment, settings and model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gradscope.comparison.layers import Correspondence
from gradscope.comparison.sides import Side
from gradscope.names import counted

__all__ = ["Note", "compare_context"]

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Note:
    """A difference that changes no number by itself. `code`: `environment`, `command`, `code`, `model`."""

    code: str
    text: str


def compare_context(a: Side, b: Side, layers: Correspondence) -> tuple[Note, ...]:
    """Return the differences of environment, command, code and model."""
    return (*_of_environment(a, b), *_of_model(layers))


def _of_environment(a: Side, b: Side) -> Iterator[Note]:
    one, two = a.environment, b.environment
    if not one or not two:
        return
    for name in ("host", "system", "devices"):
        if one.get(name) != two.get(name):
            yield Note(
                "environment",
                f"{name}: {_in_words(one.get(name))} in A, {_in_words(two.get(name))} in B",
            )
    for key, title in (
        ("versions", "version of"),
        ("variables", "environment variable"),
        ("settings", "setting"),
    ):
        for name, (mine, its) in _differing(one.get(key) or {}, two.get(key) or {}).items():
            yield Note("environment", f"{title} {name}: {mine} in A, {its} in B")
    for name in ("command", "script"):
        if one.get(name) != two.get(name):
            yield Note(
                "command", f"{name}: {_in_words(one.get(name))} in A, {_in_words(two.get(name))} in B"
            )
    git_a, git_b = ((each.get("git") or {}) for each in (one, two))
    if git_a.get("commit") != git_b.get("commit"):
        yield Note("code", f"git commit: {git_a.get('commit')} in A, {git_b.get('commit')} in B")
    elif git_a.get("is_dirty") or git_b.get("is_dirty"):
        yield Note("code", "the git commit is the same, but files had been changed since")


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value) if value else "none"


def _differing(one: Mapping[str, str], two: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        name: (one.get(name, "not set"), two.get(name, "not set"))
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name)
    }


def _of_model(layers: Correspondence) -> Iterator[Note]:
    for names, text in ((layers.only_a, "only in A"), (layers.only_b, "only in B")):
        if names:
            yield Note("model", f"{counted(len(names), 'layer')} {text}: {_listed(names)}")
    if layers.changed:
        changed = _listed(layers.changed)
        yield Note("model", f"another type, shape or dtype of parameters in B: {changed}")
    if layers.renamed:
        pairs = tuple(f"{a} is {b}" for a, b in layers.renamed)
        yield Note("model", f"layers with another name in B: {_listed(pairs)}")


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name or "the model" for name in names[:_SHOWN]) + more
