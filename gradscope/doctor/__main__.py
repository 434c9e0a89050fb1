"""The child process of `examine_file_isolated`: `python -m gradscope.doctor OPTIONS REPORTS`.

OPTIONS is the arguments of `examine_each` as JSON. REPORTS is a file to which each event is appended as a line of
JSON.
"""

import json
import sys
from pathlib import Path

from gradscope.doctor.files import examine_each
from gradscope.errors import UsageError


def main(options: str, reports: str) -> None:
    """Examine, and write a line after the imports, before each Function, for each report, and on UsageError."""
    with Path(reports).open("a", encoding="utf-8", buffering=1) as lines:

        def write(**entry: object) -> None:
            lines.write(json.dumps(entry) + "\n")

        write(started=True)
        try:
            for report in examine_each(**json.loads(options), on_begin=lambda name: write(begin=name)):
                write(report=report.to_dict())
        except UsageError as error:
            write(refused=str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
