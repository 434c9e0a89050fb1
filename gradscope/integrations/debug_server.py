"""A page of PyTorch's debug server (`torch.distributed.debug`) with the verdict of each rank.

    from torch.distributed.debug import start_debug_server
    start_debug_server(handlers=debug_handlers())

The server answers while the ranks train, and also if they wait for each other without end.
"""

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from gradscope.agent import Scope, scopes
from gradscope.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.debug._frontend import HTTPRequestHandler, Response

try:
    from torch._C._distributed_c10d import _register_handler
    from torch.distributed.debug._debug_handlers import default_handlers
    from torch.distributed.debug._frontend import DebugHandler, NavLink, Route, fetch_all
except ImportError as error:
    if error.name in ("jinja2", "tabulate"):
        raise UsageError(
            f"PyTorch's debug server needs {error.name}: pip install aiohttp jinja2 tabulate"
        ) from None
    raise UsageError(
        "handlers for PyTorch's debug server need torch 2.13 or newer, built with distributed; "
        f"found {torch.__version__}"
    ) from None

__all__ = ["VerdictHandler", "debug_handlers"]

_NAME = "gradscope_verdict"
_PAGE = """
{% extends "base.html" %}
{% block header %}<h1>{% block title %}gradscope{% endblock %}</h1>{% endblock %}
{% block content %}
{% for rank in ranks %}
  <h2>Rank {{ rank.rank }}</h2>
  {% if rank.error %}<p>{{ rank.error | e }}</p>{% endif %}
  {% for run in rank.runs %}<pre>{{ run.text | e }}</pre>{% endfor %}
{% endfor %}
{% endblock %}
"""


def debug_handlers() -> list[DebugHandler]:
    """Return the handlers for `start_debug_server`: PyTorch's own and that of the verdicts. Call it on every rank."""
    _register_once()
    return [*default_handlers(), VerdictHandler()]


class VerdictHandler(DebugHandler):
    """The pages `/gradscope` and `/gradscope_json`. They show what the ranks answer at that moment."""

    def routes(self) -> list[Route]:
        """Return the pages."""
        return [Route("/gradscope", self._page), Route("/gradscope_json", self._json)]

    def nav_links(self) -> list[NavLink]:
        """Return the links to the pages."""
        return [NavLink("/gradscope", "gradscope"), NavLink("/gradscope_json", "(JSON)")]

    def templates(self) -> dict[str, str]:
        """Return the page as a template of Jinja."""
        return {"gradscope.html": _PAGE}

    def dump(self) -> str:
        """Return the verdicts as text, for the dumps to files."""
        return "\n\n".join(
            "\n".join(
                [
                    f"=== Rank {rank['rank']} ===",
                    *rank["error"].splitlines(),
                    *(r["text"] for r in rank["runs"]),
                ]
            )
            for rank in self._ranks()
        )

    def dump_filename(self) -> str:
        """Return the name under which `enabled_dumps` enables the dumps."""
        return "gradscope"

    def _page(self, request: "HTTPRequestHandler") -> bytes:
        return request.frontend.render_template("gradscope.html", ranks=self._ranks())

    def _json(self, _: "HTTPRequestHandler") -> bytes:
        text = json.dumps({"version": 1, "ranks": self._ranks()}, indent=2)
        return text.replace("<", "\\u003c").encode()  # PyTorch's server calls every page HTML

    def _ranks(self) -> list[dict[str, Any]]:  # Any: what JSON takes
        _, answers = fetch_all(_NAME, timeout=self.fetch_timeout)
        return [{"rank": rank, **_answered(answer)} for rank, answer in enumerate(answers)]


def _answered(answer: "Response") -> Mapping[str, Any]:  # Any: what JSON takes
    if answer.status_code != 200:
        return {"error": f"no answer ({answer.status_code}): {answer.text}", "runs": []}
    found: Mapping[str, Any] = json.loads(answer.text)
    return found


@functools.cache
def _register_once() -> None:
    _register_handler(_NAME, _answer)


def _answer(_: object, response: Any) -> None:  # Any: PyTorch's _Response is only known to C++
    """Answer in a thread of PyTorch's server. An exception would end the process."""
    try:
        runs = [_described(scope) for scope in scopes()]
        error = (
            "" if runs else "no model is attached; gradscope.attach(model) in every rank attaches one"
        )
        answer = {"error": error, "runs": runs}
    except Exception as failure:  # noqa: BLE001 - an error of gradscope must not end a training
        answer = {
            "error": f"the verdict could not be read: {type(failure).__name__}: {failure}",
            "runs": [],
        }
    response.set_content(json.dumps(answer, default=str), "application/json")
    response.set_status(200)


def _described(scope: Scope) -> dict[str, Any]:  # Any: what JSON takes
    verdict = scope.diagnose()
    return verdict.as_json() | {"step": scope.step, "text": "\n".join(verdict.lines())}
