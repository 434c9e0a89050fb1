"""The process of the UI for one page."""

import asyncio
import shlex

from textual_serve.app_service import AppService

__all__ = ["AppProcess"]

_END_S = 3.0
"""The longest wait for the UI to end by itself: it closes its link to the hub."""


class AppProcess(AppService):
    """textual-serve's process of an app, started without a shell, and with a certain end."""

    async def _open_app_process(self, width: int = 80, height: int = 24) -> asyncio.subprocess.Process:
        environment = self._build_environment(width, height)
        environment["TEXTUAL_DRIVER"] = "gradscope_tui.browser.driver:BrowserDriver"
        self._process = process = await asyncio.create_subprocess_exec(
            *shlex.split(self.command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl+C is for the server, which then ends this process
        )
        self._stdin = process.stdin
        return process

    async def run(self) -> None:
        """Transfer packets until the process ends; then close the page's link, also if it ended with an error."""
        await super().run()
        await self.remote_close()

    async def stop(self) -> None:
        """End the process, and wait for its end. May be called again."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_END_S):
                await super().stop()
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
