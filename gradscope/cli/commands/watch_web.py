"""`gradscope watch --web`: the terminal UI in a browser."""

import importlib
import socket
import sys

from gradscope.cli import exit_codes
from gradscope.cli.commands.watch import live_run
from gradscope.cli.output import print_lines
from gradscope.errors import UsageError
from gradscope.notice import print_notice

__all__ = ["serve_run"]


def serve_run(run: str | None, *, host: str, port: int, is_control: bool, tab: str) -> int:
    """Serve the UI of a run until Ctrl+C. Return the exit code. By default it is the only live run."""
    try:
        server = importlib.import_module("gradscope_tui.browser.server")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise UsageError(
            f"--web needs {package}, which is not installed: pip install 'gradscope[web]'"
        ) from None
    with server.open_listener(host, port) as listener:
        run = live_run(run)
        command = [sys.executable, "-P", "-m", "gradscope_tui.browser", "--tab", tab]
        command += ["--control"] if is_control else []
        command += ["--", run] if run is not None else []
        title = f"gradscope: {run}" if run else "gradscope"
        browser_server = server.BrowserServer(command, listener, title)
        print_lines(browser_server.link)
        what = "" if is_control else " It only shows the run; with --control it can also change it."
        print_notice(
            f"gradscope: this link works once, in one browser.{what} Ctrl+C ends the server.\n"
            f"gradscope: from another machine, first run there: {browser_server.ssh_line(socket.gethostname())}"
        )
        browser_server.serve()
    return exit_codes.DONE
