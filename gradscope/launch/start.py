"""`start`: prepares the observation before the script runs. Loads neither torch nor any other large package."""

import atexit
import os
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Final

from gradscope.launch.options import LaunchOptions
from gradscope.notice import print_notice

if TYPE_CHECKING:
    from gradscope.launch.watch import TrainingWatch

__all__ = ["ImportObserver", "start"]

_NOTHING: Final = (
    "gradscope: nothing was observed, because no optimizer has stepped in this process. If the script changes "
    "parameters itself, add scope = gradscope.attach(model) before its loop and scope.mark_step() after each change; "
    "if processes that it starts do the training, use gradscope run --children"
)
_NO_MODULE: Final = (
    "gradscope: the optimizers of this script hold no parameters of an nn.Module, so no model was observed; "
    "name it: gradscope.attach(model, optimizer=...)"
)


def start(text: str) -> None:
    """Prepare this process, in which the script will run. `text`: the options, from the environment."""
    options = LaunchOptions.read(text)
    if not options.follows_children:
        options.remove_from(os.environ)
    sys.meta_path.insert(0, ImportObserver(options))


class ImportObserver:
    """An entry of `sys.meta_path` that finds no module: it only observes which modules are imported.

    The first optimizer of a process imports `torch._dynamo`, and so does `torch.compile`. Before that, there is
    nothing to attach to. The observer then makes the `TrainingWatch`.
    """

    def __init__(self, options: LaunchOptions) -> None:
        self._options = options
        self._watch: TrainingWatch | None = None
        self._is_due = self._is_done = False
        if (
            options.pid == os.getpid() and not options.follows_children
        ):  # what those do is not known here
            atexit.register(self._say_if_nothing_was_observed)  # the first one, so it is called last

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Observe that a module is imported."""
        if not self._is_done:
            self._is_due = self._is_due or name == "torch._dynamo"
            if self._is_due and not _is_initializing("torch"):
                self._prepare()
        return None

    def _prepare(self) -> None:
        self._is_done = True  # the imports here call `find_spec` too
        try:
            if self._watch is None:
                from gradscope.launch.watch import TrainingWatch  # noqa: PLC0415 - loads torch

                self._watch = TrainingWatch(self._options)
                self._watch.install()
            compilations = sys.modules.get("torch._dynamo.callback")
            handler = getattr(compilations, "callback_handler", None)
            if handler is None:
                self._is_done = False
            else:
                self._watch.observe_compilations(handler)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the script
            print_notice(f"gradscope: the script is not observed: {type(error).__name__}: {error}")

    def _say_if_nothing_was_observed(self) -> None:
        is_script = os.getpid() == self._options.pid
        has_failed = getattr(sys, "last_value", None) is not None
        has_begun = vars(sys.modules["__main__"]).get("__loader__") is not BuiltinImporter
        if not is_script or has_failed or not has_begun or self._options.quiet:
            return
        if self._watch is None or not self._watch.has_seen_step:
            print_notice(_NOTHING)
        elif not self._watch.has_observed:
            print_notice(_NO_MODULE)


def _is_initializing(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is None or bool(getattr(spec, "_initializing", False))
