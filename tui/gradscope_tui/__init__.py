"""The terminal user interface of gradscope.

`run_app` opens it on a run; `gradscope_tui.plain.render_once` prints the same table once. Importing
this package loads nothing else; the first call loads Textual.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run_app"]


def run_app(
    run: str | None,
    *,
    endpoint: str | None = None,
    is_readonly: bool = False,
    tab: str = "layers",
    recording: "Path | None" = None,
    step: int | None = None,
    against: "Path | None" = None,
) -> int:
    """Open the screen on a run, or on the only live one, and return the exit code.

    recording: show this recording instead, at `step` or at its end. against: compare it with this recording.

    The code is 0, or 130 if interrupted. If there is no hub or no run yet, the screen waits for one.
    """
    from functools import partial  # noqa: PLC0415 - heavy imports stay out of `import gradscope_tui`

    from gradscope.paths import data_dir  # noqa: PLC0415 - heavy imports stay out of `import gradscope_tui`
    from gradscope_tui.app import GradscopeApp  # noqa: PLC0415 - as above
    from gradscope_tui.source import connect_client  # noqa: PLC0415 - as above
    from gradscope_tui.termination import run_until_end  # noqa: PLC0415 - as above

    app = GradscopeApp(
        partial(connect_client, endpoint, is_readonly=is_readonly),
        run,
        is_readonly=is_readonly,
        tab=tab,
        recording=recording,
        step=step,
        against=against,
        view_path=data_dir() / "view.json",
        keys_path=data_dir() / "keys.toml",
    )
    return run_until_end(app)
