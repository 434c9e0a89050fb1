"""The table of all keys. Bindings, key line, help and palette are generated from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from textual.binding import Binding, BindingType

__all__ = [
    "CHANGING_ACTIONS",
    "EXPECTED_KEYS",
    "KEYS",
    "REPLAY_ACTIONS",
    "Key",
    "Owner",
    "bindings_of",
    "keys_shown",
    "name_of",
]

Owner: TypeAlias = Literal[
    "app", "main", "list", "layers", "detail", "depth", "interventions", "findings", "replay"
]


@dataclass(frozen=True, slots=True)
class Key:
    """`keys` is Textual's list of keys, `shown` their text for people, `action` a method of the owner.

    A key with a `brief` is in the key line of its owner's page. A key that `changes` the training is
    hidden with `--readonly` and in a recording. The keys of `replay` are for recordings only, before all others.
    """

    keys: str
    shown: str
    action: str
    meaning: str
    owner: Owner
    brief: str = ""
    changes: bool = False


KEYS: tuple[Key, ...] = (
    Key("space", "space", "replay_play", "play, or stop", "replay", "play"),
    Key("left", "←", "replay_move(-1)", "the observed step before", "replay", "back"),
    Key("right", "→", "replay_move(1)", "the next observed step", "replay", "forward"),
    Key("shift+left,left_square_bracket", "[", "replay_move(-10)", "ten observed steps back", "replay"),
    Key("shift+right,right_square_bracket", "]", "replay_move(10)", "ten forward", "replay"),
    Key("home", "home", "replay_jump(0)", "the first observed step", "replay"),
    Key("end", "end", "replay_jump(-1)", "the last observed step", "replay"),
    Key("n", "n", "replay_landmark(1)", "the next finding or intervention", "replay", "next finding"),
    Key("N", "N", "replay_landmark(-1)", "the previous one", "replay"),
    Key("j,down", "j ↓", "move(1)", "next row", "list"),
    Key("k,up", "k ↑", "move(-1)", "previous row", "list"),
    Key("pagedown,ctrl+f", "pgdn", "page(1)", "one page down", "list"),
    Key("pageup,ctrl+b", "pgup", "page(-1)", "one page up", "list"),
    Key("g,home", "g", "jump(0)", "first row", "list"),
    Key("G,end", "G", "jump(-1)", "last row", "list"),
    Key("enter", "enter", "choose", "choose the row", "list"),
    Key("h,left", "h ←", "fold", "fold, or go to the container", "layers"),
    Key("l,right", "l →", "unfold", "unfold, or go to the first layer inside", "layers"),
    Key("enter", "enter", "choose", "the layer in detail", "layers", "detail"),
    Key("space", "space", "mark", "mark the layer", "layers", "mark"),
    Key("a", "a", "mark_all", "mark all listed layers, or none", "layers"),
    Key("slash", "/", "screen.filter", "filter by a regular expression, ! inverts", "layers", "filter"),
    Key("less_than_sign", "<", "sort(-1)", "sort by the previous column", "layers"),
    Key("greater_than_sign", ">", "sort(1)", "sort by the next column", "layers", "sort"),
    Key("b", "b", "fold_repeats", "fold all repeated blocks, or unfold them", "layers", "blocks"),
    Key("I", "I", "invert", "reverse the order", "layers"),
    Key("l,j,right,down", "l →", "move(1)", "the next layer", "depth", "next layer"),
    Key("h,k,left,up", "h ←", "move(-1)", "the previous layer", "depth"),
    Key("pagedown,ctrl+f", "pgdn", "page(1)", "a tenth of the model forward", "depth"),
    Key("pageup,ctrl+b", "pgup", "page(-1)", "a tenth of the model back", "depth"),
    Key("g,home", "g", "jump(0)", "the first layer", "depth"),
    Key("G,end", "G", "jump(-1)", "the last layer", "depth"),
    Key("enter", "enter", "choose", "the layer in detail", "depth", "detail"),
    Key("e", "e", "map", "a map of all layers over steps, or the curves", "depth", "map"),
    Key("greater_than_sign", ">", "quantity(1)", "the map of the next column", "depth", "next column"),
    Key("less_than_sign", "<", "quantity(-1)", "the map of the previous column", "depth"),
    Key("e", "e", "exponents", "show exponents over steps, or curves", "detail", "exponents"),
    Key("j,down", "j ↓", "kind(1)", "exponents of the next kind of tensor", "detail", "next kind"),
    Key("k,up", "k ↑", "kind(-1)", "exponents of the previous kind", "detail"),
    Key(
        "x,delete",
        "x",
        "app.remove_chosen",
        "remove the intervention",
        "interventions",
        "remove",
        changes=True,
    ),
    Key(
        "e,enter",
        "e",
        "app.edit_chosen",
        "edit the intervention: the form with its values",
        "interventions",
        "edit",
        changes=True,
    ),
    Key("c", "c", "screen.copy_python", "copy the intervention as Python", "interventions", "copy"),
    Key(
        "i",
        "i",
        "intervene",
        "intervene in the marked layers",
        "app",
        "intervene",
        changes=True,
    ),
    Key("z,ctrl+z", "z", "undo", "undo the last change of this viewer", "app", "undo", changes=True),
    Key("Z,ctrl+r", "Z", "redo", "repeat the change that was undone last", "app", changes=True),
    Key("X", "X", "remove_all", "remove all interventions", "app", "remove all", changes=True),
    Key("enter", "enter", "choose", "the layer of the finding in detail", "findings", "detail"),
    Key(
        "e", "e", "screen.explain", "the page of the finding: confirm it, fix it", "findings", "explain"
    ),
    Key("l,right", "l →", "unfold", "show what the finding explains", "findings", "unfold"),
    Key("h,left", "h ←", "fold", "fold it", "findings"),
    Key("n", "n", "finding(1)", "the worst finding, or the next one", "main"),
    Key("N", "N", "finding(-1)", "the previous finding", "main"),
    Key(
        "f",
        "f",
        "evidence",
        "the layer of the worst finding, with the evidence in the curves; again: of the next one",
        "main",
    ),
    Key(
        "B",
        "B",
        "breakpoint",
        "set a breakpoint: pause when a condition becomes true",
        "main",
        changes=True,
    ),
    Key(
        "W",
        "W",
        "rule",
        "set a rule: what to do if a check reports or a condition becomes true",
        "main",
        changes=True,
    ),
    Key("P", "P", "pause", "pause the training, or resume it", "app", "pause", changes=True),
    Key("full_stop", ".", "step_once", "one step of a paused training", "app", changes=True),
    Key(
        "left_square_bracket", "[", "scrub(-1)", "the observed step before; p shows the newest", "main"
    ),
    Key("right_square_bracket", "]", "scrub(1)", "the observed step after", "main"),
    Key(
        "left_curly_bracket",
        "{",
        "landmark(-1)",
        "back to where a finding or intervention began",
        "main",
    ),
    Key("right_curly_bracket", "}", "landmark(1)", "on to where one began", "main"),
    Key("M", "M", "mark_step", "compare with this step from now on; again: end the comparison", "main"),
    Key("C", "C", "compare", "compare with another recorded run, at the same step", "app"),
    Key("p", "p", "freeze", "freeze the view; data continues to arrive", "main", "freeze"),
    Key("r", "r", "next_rank", "show all ranks merged, or the next rank", "main"),
    Key("v", "v", "capture", "capture whole tensors of the layer", "app", "capture", changes=True),
    Key(
        "m", "m", "measure", "measure memory and time in the next step", "app", "measure", changes=True
    ),
    Key("y", "y", "copy_row", "copy the row as text (OSC 52)", "main"),
    Key("Y", "Y", "copy_verdict", "copy the verdict with all findings as text", "main"),
    Key("1", "1", "show('layers')", "layers", "main"),
    Key("2", "2", "show('findings')", "findings", "main"),
    Key("3", "3", "show('memory')", "memory and time", "main"),
    Key("4", "4", "show('interventions')", "interventions", "main"),
    Key("5", "5", "show('log')", "log", "main"),
    Key("6", "6", "show('depth')", "numbers by depth: vanishing and exploding are a slope", "main"),
    Key("tab", "tab", "show_next(1)", "the next tab", "main"),
    Key("shift+tab", "shift+tab", "show_next(-1)", "the previous tab", "main"),
    Key("escape,backspace", "esc", "go_back", "back", "main"),
    Key("R", "R", "runs", "choose a run", "app", "runs"),
    Key("colon,ctrl+p", ": ctrl+p", "command_palette", "palette of all commands", "app"),
    Key("question_mark,f1", "?", "help", "all keys", "app", "help"),
    Key("q", "q", "leave(0)", "quit", "app", "quit"),
    Key("ctrl+c", "ctrl+c", "leave(130)", "quit at once, exit code 130", "app"),
)


EXPECTED_KEYS = {
    "u": "z undoes the last change, Z repeats it",
    "s": "> and < sort by a column",
    "d": "enter shows the layer in detail",
    "x": "x removes an intervention on the Interventions tab (4), X removes all of them",
    "e": "e belongs to a layer in detail (enter), to a finding (2), to an intervention (4) and to the Depth tab (6)",
    "c": "i and then c clips the gradient of the layer at the cursor",
    "D": "C compares with another recorded run",
    "S": "gradscope export and gradscope report write a run to a file; y copies the row",
    "ctrl+s": "gradscope export and gradscope report write a run to a file; y copies the row",
    "f5": "the screen is always the newest state; p freezes it",
    "F": "/ filters the layers by a regular expression",
    "H": "? lists all keys",
    "L": "5 shows the log",
    "T": ": opens the palette, which also has the themes",
    "equals_sign": "M compares with this step, C with another run",
    "plus": "l unfolds, h folds, b does so with all repeated blocks",
    "minus": "h folds, l unfolds, b does so with all repeated blocks",
    "t": ": opens the palette, which also has the themes",
    "o": "enter shows the layer in detail",
    "w": "enter shows the layer in detail; its weights are in the table there",
}
"""What people press who know other programs, and which key they look for."""

CHANGING_ACTIONS = {key.action.removeprefix("app.") for key in KEYS if key.changes}
"""The actions that `--readonly` refuses."""

REPLAY_ACTIONS = {key.action.partition("(")[0] for key in KEYS if key.owner == "replay"}
"""The actions that only a recording has."""


def name_of(key: Key) -> str:
    """Return the name of what a key does, for a file with other keys: `layers.mark`, `main.show_log`."""
    action = key.action.removeprefix("app.").removeprefix("screen.").replace("-", "back_")
    words = "".join(char if char.isalnum() else "_" for char in action)
    return f"{key.owner}.{words.strip('_').replace('__', '_')}"


def bindings_of(owner: Owner) -> list[BindingType]:
    """Return the bindings of one widget, of the main screen, or of the app."""
    return [
        Binding(key.keys, key.action, key.meaning, show=False, priority=_is_first(key), id=name_of(key))
        for key in KEYS
        if key.owner == owner
    ]


def _is_first(key: Key) -> bool:
    """Return whether a key is tried before those of the focused widget."""
    return key.owner == "replay" or (key.owner == "app" and key.keys == "ctrl+c")


def keys_shown(
    page: Owner, *, is_readonly: bool, is_replay: bool = False, keys: Iterable[Key] = KEYS
) -> Iterable[Key]:
    """Return the keys for the key line of a page: its own keys first, then the keys of all pages."""
    keys = tuple(keys)
    first = [key for key in keys if key.owner == "replay"] if is_replay else []
    own = [key for key in keys if key.owner == page and page != "main"]
    everywhere = [key for key in keys if key.owner in ("app", "main")]
    taken = {"p", *(key.keys for key in first)} if is_replay else set()
    for key in (*first, *(key for key in (*own, *everywhere) if key.keys not in taken)):
        if key.brief and not (key.changes and is_readonly):
            yield key
