"""`gradscope mcp`: a server of the Model Context Protocol, through which an assistant reads and changes runs.

It speaks over stdin and stdout, so it has the rights of the user whose program has started it, and opens no port.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import jsonschema
from mcp import types
from mcp.server import Server
from mcp.server.stdio import stdio_server

from gradscope._version import __version__
from gradscope.catalogue import INTERVENTIONS, Argument, InterventionSpec, Value
from gradscope.cli.commands.run_list import find_runs
from gradscope.client import connect
from gradscope.errors import GradscopeError, UsageError
from gradscope.findings import compact_json, plain_value
from gradscope.history import TABLES, read_history, snapshot_as_json

__all__ = ["Tool", "serve_stdio", "tools"]

_INSTRUCTIONS = (
    "gradscope observes trainings of neural networks in PyTorch. Begin with `list_runs`. `diagnose` says what is "
    "wrong with a run, with causes and fixes; `snapshot` has the numbers of one step. A number that is null was not "
    "measured, which is not zero. A run that is not checked fully is not proven healthy: see `not_checked`."
)
_TIMEOUT_S = 30.0
_RUNS = 50

Arguments: TypeAlias = Mapping[str, Any]  # Any: what JSON may hold
Schema: TypeAlias = dict[str, Any]  # Any: what JSON may hold


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: its name, what it does, its arguments as JSON schemas, and the function that it calls."""

    name: str
    description: str
    arguments: Mapping[str, Schema]
    required: tuple[str, ...]
    call: Callable[[Arguments], object]
    is_readonly: bool = True

    @property
    def schema(self) -> Schema:
        """The JSON schema of all arguments."""
        return {
            "type": "object",
            "properties": dict(self.arguments),
            "required": list(self.required),
            "additionalProperties": False,
        }


def serve_stdio(*, may_control: bool) -> None:
    """Answer requests on stdin until it is closed."""
    by_name = {tool.name: tool for tool in tools(may_control=may_control)}

    async def list_tools(_context: object, _parameters: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in by_name.values()])

    async def call_tool(
        _context: object, parameters: types.CallToolRequestParams
    ) -> types.CallToolResult:
        text, is_error = await anyio.to_thread.run_sync(
            _answer, by_name, parameters.name, parameters.arguments or {}
        )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=text)], is_error=is_error
        )

    server = Server(
        "gradscope",
        version=__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )

    async def serve() -> None:
        async with stdio_server() as (received, sent):
            await server.run(received, sent, server.create_initialization_options())

    anyio.run(serve)


def tools(*, may_control: bool) -> list[Tool]:
    """Return the tools. With `may_control`, one for each intervention of the catalogue, and `remove`."""
    readers = [
        Tool("list_runs", "List live and recorded runs, live and new ones first.", {}, (), _list_runs),
        Tool(
            "diagnose",
            "Say what is wrong with a run: findings with cause and fix, causes before their consequences, "
            "and what could not be checked.",
            {"run": _RUN},
            ("run",),
            _diagnose,
        ),
        Tool(
            "snapshot",
            "What is needed to judge one step of a run, in under 4,000 tokens: verdict, findings, scalars, "
            "interventions, and the layers of the findings and the extremes.",
            {"run": _RUN, "around": _AROUND},
            ("run",),
            _snapshot,
        ),
        Tool(
            "layers",
            "A snapshot with the numbers of the layers that you name.",
            {"run": _RUN, "layers": _LAYERS, "around": _AROUND},
            ("run", "layers"),
            _snapshot,
        ),
    ]
    if not may_control:
        return readers
    removal = Tool(
        "remove",
        "Remove an intervention of a run. The ids are in its snapshot.",
        {"run": _RUN, "id": {"type": "string", "description": "the id of the intervention"}},
        ("run", "id"),
        _remove,
        is_readonly=False,
    )
    return [*readers, *map(_intervention_tool, INTERVENTIONS.values()), removal]


_RUN: Schema = {"type": "string", "description": "the name of a run, as list_runs shows it"}
_AROUND: Schema = {
    "type": "integer",
    "minimum": 0,
    "description": "a step: the nearest observed one is shown; default: the newest",
}
_LAYERS: Schema = {
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "description": "names or glob patterns of layers, such as blocks.*.mlp",
}


def _intervention_tool(spec: InterventionSpec) -> Tool:
    own = {argument.name: _schema_of(argument) for argument in spec.arguments}
    shared: dict[str, Schema] = {
        "run": _RUN,
        "layers": _LAYERS,
        "steps": {
            "type": "integer",
            "minimum": 1,
            "description": "it is removed after this many steps",
        },
        "site": {
            "enum": list(spec.sites),
            "default": spec.sites[0],
            "description": "the layer's output, its input, or params: the gradients of its parameters",
        },
    }
    needed = [argument.name for argument in spec.arguments if argument.default is None]
    return Tool(
        spec.name,
        f"Change a running training: {spec.help}. In force from the next step on.",
        shared | own,
        ("run", "layers", "steps", *needed),
        lambda given: _intervene(spec, given),
        is_readonly=False,
    )


def _schema_of(argument: Argument) -> Schema:
    kind = {"number": "number", "whole": "integer", "yes": "boolean", "choice": "string"}[argument.kind]
    schema: Schema = {"type": kind, "description": argument.help}
    if argument.kind in ("number", "whole"):
        limits = {"minimum": argument.lowest, "maximum": argument.highest}
        schema |= {key: limit for key, limit in limits.items() if abs(limit) != float("inf")}
    if argument.options:
        schema["enum"] = list(argument.options)
    return schema if argument.default is None else schema | {"default": argument.default}


def _described(tool: Tool) -> types.Tool:
    hints = types.ToolAnnotations(read_only_hint=tool.is_readonly)
    return types.Tool(
        name=tool.name, description=tool.description, input_schema=tool.schema, annotations=hints
    )


def _answer(by_name: Mapping[str, Tool], name: str, arguments: Arguments) -> tuple[str, bool]:
    """Return the answer of a tool as text, and whether it is an error."""
    try:
        if name not in by_name:
            raise UsageError(f"there is no tool {name!r}; there are: {', '.join(by_name)}")
        tool = by_name[name]
        jsonschema.validate(arguments, tool.schema)
        return compact_json(plain_value(tool.call(arguments))), False
    except jsonschema.ValidationError as error:
        return f"wrong arguments for {name}: {error.message}", True
    except (GradscopeError, OSError) as error:
        return str(error), True


def _list_runs(_given: Arguments) -> object:
    listed, _ = find_runs()
    shown = ("run", "state", "step", "started_s", "host", "script", "reason")
    runs = [{name: getattr(one, name) for name in shown} for one in listed[:_RUNS]]
    return {"version": 1, "runs": runs, "left_out": len(listed) - len(runs)}


def _diagnose(given: Arguments) -> object:
    return read_history(given["run"]).verdict.as_json()


def _snapshot(given: Arguments) -> object:
    around = given.get("around")
    history = read_history(given["run"], around=around, tables=TABLES)
    return snapshot_as_json(history, around=around, layers=given.get("layers", ()))


def _intervene(spec: InterventionSpec, given: Arguments) -> object:
    values: dict[str, Value] = {a.name: given[a.name] for a in spec.arguments if a.name in given}
    with connect(given["run"], want="control", name="gradscope mcp") as client:
        ack = client.intervene(
            given["layers"],
            spec.name,
            arguments=values,
            site=given.get("site", spec.sites[0]),
            end_steps=given["steps"],
            timeout_s=_TIMEOUT_S,
        )
    return {"version": 1, "id": ack.id, "step": ack.step, "layers": ack.layers}


def _remove(given: Arguments) -> object:
    with connect(given["run"], want="control", name="gradscope mcp") as client:
        ack = client.remove(given["id"], timeout_s=_TIMEOUT_S)
    return {"version": 1, "id": given["id"], "step": ack.step}
