"""The conventions of the code that no linter checks. Each test lists every place that breaks one."""

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

import gradscope.errors

NEEDS_A_PACKAGE = {
    *(
        f"gradscope.integrations.{each}"
        for each in ("accelerate", "debug_server", "lightning", "transformers")
    ),
    *(f"gradscope_tui.browser.{each}" for each in ("app_process", "server")),
    *(
        f"gradscope.trackers.to_{each}"
        for each in ("mlflow", "opentelemetry", "tensorboard", "trackio", "wandb")
    ),
    "gradscope.cli.commands.mcp_server",
}
"""Modules that need packages which may be missing."""

FILE_LIMIT = 500
FUNCTION_LIMIT = 60

LONG_FILES: dict[str, str] = {
    "gradscope.findings.wiring": "the checks of one subject, each a function of the same facts",
    "gradscope.agent.scope": "the public methods of a scope: one call each, and their documentation",
}
"""Modules that may be longer than FILE_LIMIT lines, with the reason: their subject is one."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer than FUNCTION_LIMIT lines, as `module:function`, with the reason."""

_NO_SUBJECT = {
    *("utils", "util", "helpers", "helper", "common"),
    *("misc", "manager", "base", "tools", "stuff"),
}
_RUNS_WHAT_IT_READS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}


def check(failures):
    """Fail with all failures, one a line."""
    lines = list(failures)
    assert not lines, "\n".join([f"{len(lines)} places:", *lines])


def test_every_room_has_a_readme_that_says_what_it_may_import_and_where_to_read(root: Path, rooms):
    failures = []
    for room in rooms:
        folder = root / "gradscope" / room
        text = (folder / "README.md").read_text(encoding="utf-8")
        if not text.startswith(f"# {room}\n"):
            failures.append(f"{room}/README.md: the first line is not '# {room}'")
        if not re.search(r"\b[Ii]mports?\b", text):
            failures.append(f"{room}/README.md: does not say what the room may import")
        first_cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
        named = {name for cell in first_cells for name in re.findall(r"`(\w+\.py)`", cell)}
        missing = sorted(name for name in named if not (folder / name).exists())
        failures += [f"{room}/README.md: names {name}, which does not exist" for name in missing]
    check(failures)


def test_the_terminal_ui_has_its_readme(root: Path):
    assert any((root / "tui" / folder / "README.md").exists() for folder in ("", "gradscope_tui"))


def test_no_file_is_too_long(modules):
    lines = {module.name: len(module.text.splitlines()) for module in modules}
    long = {name: count for name, count in lines.items() if count > FILE_LIMIT}
    check(f"{name}: {long[name]} lines" for name in long.keys() - LONG_FILES.keys())
    check(f"{name} in LONG_FILES is not long" for name in LONG_FILES.keys() - long.keys())


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's lines without its docstring: explaining more must not cost anything."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_no_function_is_too_long(modules):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    lines = {
        f"{module.name}:{node.name}": _lines(node)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, kinds)
    }
    long = {name: count for name, count in lines.items() if count > FUNCTION_LIMIT}
    check(f"{name}: {long[name]} lines" for name in long.keys() - LONG_FUNCTIONS.keys())
    check(f"{name} in LONG_FUNCTIONS is not long" for name in LONG_FUNCTIONS.keys() - long.keys())


def test_a_modules_name_is_its_subject(modules):
    check(module.name for module in modules if _NO_SUBJECT & set(module.name.split(".")))


def test_a_module_says_in_its_first_line_what_it_is(modules):
    docstrings = {module: ast.get_docstring(module.tree, clean=False) for module in modules}
    check(module.place(1) for module, text in docstrings.items() if not text or text.startswith("\n"))


def test_no_line_is_marked_as_to_do(modules):
    check(
        module.place(number)
        for module in modules
        for number, line in enumerate(module.text.splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line)
    )


def test_nothing_that_was_read_is_ever_run(modules):
    check(
        f"{module.place(1)}: imports {name}"
        for module in modules
        for name in module.imports
        if name.partition(".")[0] in _RUNS_WHAT_IT_READS
    )
    check(
        f"{module.place(node.lineno)}: calls {ast.unparse(node.func)}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("eval", "exec", "compile", "__import__")
    )


def test_no_exception_is_swallowed_in_silence(modules):
    failures = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    failures.append(f"{module.place(node.lineno)}: {caught} is passed over")
    check(failures)


def _exported(module) -> list[str] | None:
    """Return the names in a module's `__all__`; None if it has none."""
    lists = [
        node.value for node in module.tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]
    ]  # fmt: skip
    return ast.literal_eval(lists[0]) if lists else None


def test_the_exported_names_of_a_module_exist_sorted_and_once(modules):
    failures = []
    for module in modules:
        names = _exported(module)
        if names is None:
            continue
        if names != sorted(set(names), key=_constants_then_classes_then_functions):
            failures.append(f"{module.name}: __all__ is not sorted, or names a thing twice")
        try:
            loaded = importlib.import_module(module.name)
        except (gradscope.errors.UsageError, ModuleNotFoundError):
            if module.name not in NEEDS_A_PACKAGE:
                raise
            continue
        missing = [n for n in names if not hasattr(loaded, n) and n not in getattr(loaded, "_HOME", {})]
        failures += [f"{module.name}: has no {name}" for name in missing]
    check(failures)


def _constants_then_classes_then_functions(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def test_every_room_says_what_is_public(modules, rooms):
    failures = []
    for module in modules:
        if module.name.removeprefix("gradscope.") in rooms:
            defines = [node for node in module.tree.body if not isinstance(node, ast.Expr)]
            if defines and "__all__" not in module.text:
                failures.append(f"{module.name}: has no __all__")
    check(failures)


def test_every_exception_that_a_room_defines_is_one_of_gradscopes_errors(modules):
    ours = set(gradscope.errors.__all__)
    failures = []
    for module in modules:
        if module.room == "errors":
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Exception")):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if not bases & ours and not node.name.startswith("_"):
                    failures.append(f"{module.place(node.lineno)}: {node.name}")
    check(failures)


@pytest.fixture(scope="session")
def table(root: Path) -> dict[str, tuple[int, set[str]]]:
    """Floor and third-party imports of each room by gradscope/README.md."""
    text = (root / "gradscope" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .* \|(.*)\|$", text, re.MULTILINE)
    return {
        room: (int(floor), set(re.findall(r"\b[a-z_]+\b", re.sub(r"\(.*?\)", "", third))))
        for floor, room, third in rows
    }


def test_the_table_of_rooms_has_every_room(table, rooms):
    assert set(rooms) <= set(table)


def test_the_floors_of_the_table_are_the_layers_that_the_linter_holds(root: Path, table):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [
        contract["layers"]
        for contract in contracts
        if contract["type"] == "layers" and contract["containers"] == ["gradscope"]
    ]
    floors = {room: len(layers) - i for i, names in enumerate(layers) for room in names.split(" | ")}
    assert {room: floor for room, (floor, _) in table.items()} == floors


def test_a_room_imports_the_third_parties_of_the_table_and_no_others(modules, rooms, table):
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for module in modules:
        if module.room in found:
            found[module.room] |= {name.partition(".")[0] for name in module.imports}
    ours = sys.stdlib_module_names | {"gradscope", "compression"}  # compression is new in Python 3.14
    assert {room: names - ours for room, names in found.items()} == {
        room: table[room][1] for room in rooms
    }


def test_rooms_import_downward_only(modules, rooms, table):
    floors = {name: floor for name, (floor, _) in table.items()}
    failures = []
    for module in modules:
        for name in module.imports if module.room in rooms else ():
            parts = name.split(".")
            is_other = parts[0] == "gradscope" and len(parts) > 1 and parts[1] != module.room
            if is_other and floors[parts[1]] >= floors[module.room]:
                failures.append(f"{module.place(1)}: imports {name}")
    check(failures)
