"""The child of `examine_file_isolated`: what to examine as JSON, and the file for the reports."""

import json
import sys
from pathlib import Path

from gradscope.doctor.files import examine_file
from gradscope.errors import UsageError


def main(asked: str, result: str) -> None:
    """Examine, and write the reports in one piece: a file that is there is whole."""
    reports = [report.to_dict() for report in examine_file(**json.loads(asked))]
    unfinished = Path(result).with_suffix(".part")
    unfinished.write_text(json.dumps(reports), encoding="utf-8")
    unfinished.rename(result)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UsageError as error:
        sys.exit(str(error))  # one line on stderr: the parent shows how it ends
