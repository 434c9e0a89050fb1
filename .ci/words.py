"""Check that the words of `.ci/words.toml` stay out of the repository's text files.

`python .ci/words.py` prints each place and exits with 1 if there is one; `--count` prints a count for
each folder; paths limit the check to files below them.
"""

import argparse
import fnmatch
import re
import subprocess
import sys
import tomllib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIST = Path(__file__).resolve().with_name("words.toml")
_SUFFIXES = (".py", ".pyi", ".md", ".c", ".h", ".toml", ".tcss", ".yml", "Makefile")
_COMMENT = re.compile(r"^\s*(#+|//|/?\*+|>)?\s*")


@dataclass(frozen=True, slots=True)
class Word:
    """A word that is not to be used, and what to use."""

    pattern: re.Pattern[str]
    use: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """A place where words may stay."""

    file: str
    word: re.Pattern[str]
    text: re.Pattern[str]

    def covers(self, hit: "Hit") -> bool:
        """Return whether this entry allows the hit."""
        return (
            fnmatch.fnmatchcase(hit.path, self.file)
            and self.word.fullmatch(hit.found) is not None
            and self.text.search(hit.context) is not None
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A word that was found."""

    path: str
    line: int
    found: str
    context: str
    use: str


def main() -> int:
    """Print the hits, or their number in each folder; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", help="files and folders; all tracked files without")
    parser.add_argument("--count", action="store_true", help="print a count for each folder")
    options = parser.parse_args()
    words, allowed = _read_list()
    hits = [
        hit
        for path in _tracked(options.paths)
        for hit in _find(path, words)
        if not any(entry.covers(hit) for entry in allowed)
    ]
    if options.count:
        for folder, count in sorted(Counter(_folder(hit.path) for hit in hits).items()):
            print(f"{count:5} {folder}")
        print(f"{len(hits):5} in all")
    else:
        for hit in hits:
            print(f"{hit.path}:{hit.line}: {hit.found!r} in '{hit.context}'; use: {hit.use}")
    return 1 if hits else 0


def _read_list() -> tuple[list[Word], list[Allowed]]:
    table = tomllib.loads(_LIST.read_text(encoding="utf-8"))
    words = [Word(_compile(word["pattern"]), word["use"]) for word in table["word"]]
    allowed = [
        Allowed(
            entry["file"],
            re.compile(entry.get("word", ".*"), re.IGNORECASE),
            re.compile(entry.get("text", "")),
        )
        for entry in table["allowed"]
    ]
    return words, allowed


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", "[ _]"))


def _is_border(text: str, at: int) -> bool:
    """Return whether a word can begin or end here: next to a non-letter, or inside CamelCase."""
    before, after = text[at - 1 : at], text[at : at + 1]
    return not before.isalpha() or not after.isalpha() or (before.islower() and after.isupper())


def _tracked(paths: list[str]) -> list[Path]:
    """Return the tracked text files below the paths."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--", *paths], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [Path(name) for name in names if name.endswith(_SUFFIXES) and Path(name).is_file()]


def _find(path: Path, words: list[Word]) -> Iterator[Hit]:
    """Yield all hits in a file. Lines are joined, so a phrase is also found across a line break."""
    joined, starts = "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        starts.append(len(joined))
        joined += _COMMENT.sub("", line).rstrip() + " "
    lower = joined.lower()
    for word in words:
        for match in word.pattern.finditer(lower):
            begin, end = match.span()
            if _is_border(joined, begin) and _is_border(joined, end):
                context = joined[max(0, begin - 40) : end + 40].strip()
                yield Hit(str(path), bisect_right(starts, begin), joined[begin:end], context, word.use)


def _folder(path: str) -> str:
    parts = Path(path).parent.parts
    return "/".join(parts[:2]) or "."


if __name__ == "__main__":
    sys.exit(main())
