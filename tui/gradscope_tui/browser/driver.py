"""Textual's driver for a browser, which also ends the UI when the server has ended."""

import os
import signal
import threading

from textual.drivers.web_driver import WebDriver

__all__ = ["BrowserDriver"]

_END_S = 3.0


class BrowserDriver(WebDriver):
    """Ends the process when stdin ends: no one would read its picture any more."""

    def run_input_thread(self) -> None:
        """Read stdin until it ends or the UI does."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            end = threading.Timer(_END_S, os._exit, [1])  # writing to a closed stdout may fail anywhere
            end.daemon = True
            end.start()
            os.kill(os.getpid(), signal.SIGTERM)  # the driver's own way to end
