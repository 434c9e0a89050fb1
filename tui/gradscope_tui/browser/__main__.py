"""`python -m gradscope_tui.browser [--control] [--tab TAB] [RUN]`: the UI of one page, started by the server."""

import argparse
import sys

from gradscope_tui import run_app


def main() -> int:
    """Run the UI; keys come from stdin and the picture goes to stdout, as packets of textual-serve."""
    parser = argparse.ArgumentParser(prog="gradscope_tui.browser")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--tab", default="layers")
    options = parser.parse_args()
    return run_app(options.run, is_readonly=not options.control, tab=options.tab)


if __name__ == "__main__":
    sys.exit(main())
