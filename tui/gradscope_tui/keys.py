"""Every key of the screen, in one table: bindings, key line, help and palette are made from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from textual.binding import Binding, BindingType

__all__ = ["KEYS", "Key", "Owner", "bindings_of", "keys_shown"]

Owner: TypeAlias = Literal["app", "main", "layers", "detail", "interventions", "alerts"]


@dataclass(frozen=True, slots=True)
class Key:
    """`keys` is Textual's list of keys, `shown` what a person reads.

    With a `brief` the key stands in the key line of its owner's page. A key that `changes` the training
    is hidden from those who may only watch.
    """

    keys: str
    shown: str
    action: str
    meaning: str
    owner: Owner
    brief: str = ""
    changes: bool = False


KEYS: tuple[Key, ...] = (
    Key("j,down", "j ↓", "move(1)", "next row", "layers"),
    Key("k,up", "k ↑", "move(-1)", "previous row", "layers"),
    Key("pagedown,ctrl+f", "pgdn", "page(1)", "one page down", "layers"),
    Key("pageup,ctrl+b", "pgup", "page(-1)", "one page up", "layers"),
    Key("g,home", "g", "jump(0)", "first row", "layers"),
    Key("G,end", "G", "jump(-1)", "last row", "layers"),
    Key("h,left", "h ←", "fold", "fold, or go to the container", "layers"),
    Key("l,right", "l →", "unfold", "unfold, or go inside", "layers"),
    Key("enter", "enter", "detail", "the layer in detail", "layers", "detail"),
    Key("space", "space", "mark", "mark the layer", "layers", "mark"),
    Key("a", "a", "mark_all", "mark all that are listed, or none", "layers"),
    Key("slash", "/", "filter", "filter by a regular expression, ! inverts", "layers", "filter"),
    Key("less_than_sign", "<", "sort(-1)", "sort by the previous column", "layers"),
    Key("greater_than_sign", ">", "sort(1)", "sort by the next column", "layers", "sort"),
    Key("I", "I", "invert", "turn the order round", "layers"),
    Key("e", "e", "exponents", "its exponents over the steps, or its curves", "detail", "exponents"),
    Key("j,down", "j ↓", "kind(1)", "the exponents of the next kind of tensor", "detail", "next kind"),
    Key("k,up", "k ↑", "kind(-1)", "the exponents of the previous kind", "detail"),
    Key(
        "x,delete",
        "x",
        "app.remove_chosen",
        "remove the intervention",
        "interventions",
        "remove",
        changes=True,
    ),
    Key("c", "c", "app.copy_python", "copy the intervention as Python", "interventions", "copy"),
    Key(
        "i",
        "i",
        "intervene",
        "change the gradients of the marked layers",
        "app",
        "intervene",
        changes=True,
    ),
    Key("z", "z", "undo", "undo the last change of this viewer", "app", "undo", changes=True),
    Key("X", "X", "remove_all", "remove all interventions", "app", "remove all", changes=True),
    Key("enter", "enter", "app.show_alerts_layer", "the alert's layer in detail", "alerts", "detail"),
    Key("n", "n", "alert(1)", "next alert, or the newest", "app"),
    Key("N", "N", "alert(-1)", "previous alert", "app"),
    Key("P", "P", "pause", "pause the training, or let it go on", "app", "pause", changes=True),
    Key("full_stop", ".", "step_once", "one step of a paused training", "app", changes=True),
    Key("p", "p", "freeze", "freeze the view; data goes on arriving", "main", "freeze"),
    Key("r", "r", "next_rank", "all ranks merged, or one after the other", "main"),
    Key("v", "v", "capture", "look at the layer's whole tensors", "app", "capture", changes=True),
    Key(
        "m", "m", "measure", "measure memory and time in the next step", "app", "measure", changes=True
    ),
    Key("1", "1", "show('layers')", "layers", "main"),
    Key("2", "2", "show('alerts')", "alerts", "main"),
    Key("3", "3", "show('memory')", "memory and time", "main"),
    Key("4", "4", "show('interventions')", "interventions", "main"),
    Key("5", "5", "show('log')", "log", "main"),
    Key("escape", "esc", "go_back", "back", "main"),
    Key("R", "R", "runs", "choose a run", "app", "runs"),
    Key("colon,ctrl+p", ": ctrl+p", "command_palette", "palette of all commands", "app"),
    Key("question_mark", "?", "help", "all keys", "app", "help"),
    Key("q", "q", "leave(0)", "quit", "app", "quit"),
    Key("ctrl+c", "ctrl+c", "leave(130)", "quit at once, exit code 130", "app"),
)


def bindings_of(owner: Owner) -> list[BindingType]:
    """Return the bindings of one widget, of the main screen, or of the app."""
    is_app = owner == "app"
    return [
        Binding(key.keys, key.action, key.meaning, show=False, priority=is_app and key.keys == "ctrl+c")
        for key in KEYS
        if key.owner == owner
    ]


def keys_shown(page: Owner, *, is_readonly: bool) -> Iterable[Key]:
    """Return the keys for the key line of a page: its own first, then those that hold everywhere."""
    own = [key for key in KEYS if key.owner == page and page != "main"]
    everywhere = [key for key in KEYS if key.owner in ("app", "main")]
    for key in (*own, *everywhere):
        if key.brief and not (key.changes and is_readonly):
            yield key
