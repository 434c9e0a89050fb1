"""`%gradscope`, the line magic of `%load_ext gradscope`: shows the scopes of a notebook without a variable."""

import sys
from typing import Any

from gradscope.agent.attach import scopes
from gradscope.agent.scope import Scope
from gradscope.notice import print_notice

__all__ = ["register"]


def register(shell: Any) -> None:  # Any: IPython's shell, which is not imported here
    """Register the magic with the shell of a notebook or of IPython."""
    shell.register_magic_function(_show, "line", "gradscope")


def _show(line: str) -> Scope | None:
    """Show what was found in the attached models and the newest step as a table.

    %gradscope shows all of them, %gradscope RUN the run of that name.
    """
    name, attached = line.strip(), scopes()
    chosen = [scope for scope in attached if name in ("", scope.run)]
    if not attached:
        print_notice("No model is attached. Attach one with: scope = gradscope.attach(model)")
    elif not chosen:
        print_notice(
            f"No run is named {name!r} here; expected one of: {', '.join(scope.run for scope in attached)}"
        )
    elif len(chosen) > 1:
        sys.modules["IPython"].display.display(*chosen)
    return chosen[0] if len(chosen) == 1 else None
