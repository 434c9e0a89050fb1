"""The house rules that a reader relies on and no other tool holds."""

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import gradscope.errors

FILE_LIMIT = 500
FUNCTION_LIMIT = 60

LONG_FILES: dict[str, str] = {}
"""Files that may be longer, with the reason."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer, as `module:function`, with the reason."""

_NO_SUBJECT = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "manager",
    "base",
    "tools",
    "stuff",
}
_RUNS_WHAT_IT_READS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(name), level=0):
                names.add(name)
    return names


def test_every_room_has_a_readme_that_says_what_it_may_import_and_where_to_read(root: Path, room: str):
    folder = root / "gradscope" / room
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {room}\n")
    assert re.search(r"\b[Ii]mports?\b", text)
    first_cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+\.py)`", cell)}
    assert {name for name in named if not (folder / name).exists()} == set()


def test_the_terminal_ui_has_its_readme(root: Path):
    assert any((root / "tui" / folder / "README.md").exists() for folder in ("", "gradscope_tui"))


def test_no_file_is_too_long(module: str, path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LIMIT or module in LONG_FILES, f"{path} has {lines} lines"


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's lines without its docstring: explaining more must not cost anything."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_no_function_is_too_long(module: str, path: Path):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    lines = {f"{module}:{f.name}": _lines(f) for f in ast.walk(_tree(path)) if isinstance(f, kinds)}
    long = {name: count for name, count in lines.items() if count > FUNCTION_LIMIT}
    assert not long.keys() - LONG_FUNCTIONS.keys(), long


def test_a_modules_name_is_its_subject(module: str):
    assert not _NO_SUBJECT & set(module.split("."))


def test_a_module_says_in_its_first_line_what_it_is(module: str, path: Path):
    docstring = ast.get_docstring(_tree(path))
    assert docstring
    assert not docstring.startswith("\n")


def test_nothing_is_left_to_be_done_later(path: Path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line), f"{path}:{number}"


def test_nothing_that_was_read_is_ever_run(path: Path):
    assert not _RUNS_WHAT_IT_READS & {name.partition(".")[0] for name in _imported(path)}
    called = {ast.unparse(node.func) for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)}
    assert not {"eval", "exec", "compile", "__import__"} & called


def test_no_exception_is_swallowed_in_silence(path: Path):
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"{path}:{node.lineno}"


def test_what_a_module_exports_is_there_in_order_and_once(module: str, path: Path):
    lists = [
        node.value for node in _tree(path).body
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]
    ]  # fmt: skip
    if not lists:
        return
    names = ast.literal_eval(lists[0])
    assert names == sorted(set(names), key=_constants_then_classes_then_functions)
    loaded = importlib.import_module(module)
    for name in names:
        assert hasattr(loaded, name) or name in getattr(loaded, "_HOME", {}), f"{module}.{name}"


def _constants_then_classes_then_functions(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def test_every_room_says_what_is_public(root: Path, room: str):
    tree = _tree(root / "gradscope" / room / "__init__.py")
    defines = [n for n in tree.body if not isinstance(n, ast.Expr)]
    assert not defines or "__all__" in ast.unparse(tree)


def test_every_exception_that_a_room_defines_is_one_of_gradscopes_errors(module: str, path: Path):
    if module == "gradscope.errors":
        return
    ours = set(gradscope.errors.__all__)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Exception")):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            assert bases & ours or node.name.startswith("_"), f"{path}:{node.lineno}"


def _table(root: Path) -> dict[str, tuple[int, set[str]]]:
    """Return floor and third-party imports of each room by gradscope/README.md."""
    text = (root / "gradscope" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .* \|(.*)\|$", text, re.MULTILINE)
    return {
        room: (int(floor), set(re.findall(r"\b[a-z]+\b", re.sub(r"\(.*?\)", "", third))))
        for floor, room, third in rows
    }


def test_the_table_of_rooms_has_every_room(root: Path, rooms: list[str]):
    assert set(rooms) <= set(_table(root))


def test_the_floors_of_the_table_are_the_layers_that_the_linter_holds(root: Path):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    floors = {room: len(layers) - i for i, names in enumerate(layers) for room in names.split(" | ")}
    assert {room: floor for room, (floor, _) in _table(root).items()} == floors


def test_a_room_imports_the_third_parties_of_the_table_and_no_others(root: Path, room: str):
    found: set[str] = set()
    for path in (root / "gradscope" / room).rglob("*.py"):
        found |= {name.partition(".")[0] for name in _imported(path)}
    third = found - sys.stdlib_module_names - {"gradscope"}
    assert third == _table(root)[room][1]


def test_rooms_import_downward_only(root: Path, room: str):
    floors = {name: floor for name, (floor, _) in _table(root).items()}
    for path in (root / "gradscope" / room).rglob("*.py"):
        for name in _imported(path):
            parts = name.split(".")
            if parts[0] == "gradscope" and len(parts) > 1 and parts[1] != room:
                assert floors[parts[1]] < floors[room], f"{path} imports {name}"
