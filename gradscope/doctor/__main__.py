"""The child of `examine_file_isolated`: what to examine as JSON, and the file for its lines."""

import json
import sys
from pathlib import Path

from gradscope.doctor.files import examine_each
from gradscope.errors import UsageError


def main(asked: str, written: str) -> None:
    """Examine; write a line when a Function begins, one with its report, one where usage is wrong."""
    with Path(written).open("a", encoding="utf-8", buffering=1) as lines:

        def write(entry: dict[str, object]) -> None:
            lines.write(json.dumps(entry) + "\n")

        options = json.loads(asked) | {"on_begin": lambda name: write({"begin": name})}
        try:
            for report in examine_each(**options):
                write({"report": report.to_dict()})
        except UsageError as error:
            write({"refused": str(error)})


if __name__ == "__main__":
    main(*sys.argv[1:])
