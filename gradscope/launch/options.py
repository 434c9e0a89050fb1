"""`LaunchOptions`: what `gradscope run` tells the process of the script, in an environment variable."""

import json
import os
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["LaunchOptions"]

_VARIABLE: Final = "GRADSCOPE_RUN"
_FOLDER: Final = str(Path(__file__).parent / "bootstrap")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """The options of `gradscope run`. Those of `attach` have the same names and meanings there.

    follows_children: also observe the Python processes that the script starts.
    pid: the process of the script.
    python_path: the script's own PYTHONPATH; None if it is not set.
    """

    name: str | None = None
    layers: tuple[str, ...] = ()
    detail: str = "core"
    budget: float = 0.02
    every: int | None = None
    record: bool = True
    control: bool = True
    quiet: bool = False
    follows_children: bool = False
    pid: int
    python_path: str | None = None

    def write_to(self, environment: MutableMapping[str, str]) -> None:
        """Make a Python process with this environment load `bootstrap/sitecustomize.py` with these options."""
        own = self.python_path
        environment["PYTHONPATH"] = f"{_FOLDER}{os.pathsep}{own}" if own else _FOLDER
        environment[_VARIABLE] = json.dumps(asdict(self))

    def remove_from(self, environment: MutableMapping[str, str]) -> None:
        """Undo `write_to`."""
        environment.pop(_VARIABLE, None)
        if self.python_path is None:
            environment.pop("PYTHONPATH", None)
        else:
            environment["PYTHONPATH"] = self.python_path

    @classmethod
    def read(cls, text: str) -> "LaunchOptions":
        """Return the options that `write_to` has written."""
        values: dict[str, Any] = json.loads(text)  # Any: the fields have several types
        return cls(**{**values, "layers": tuple(values["layers"])})

    def attach_arguments(self) -> dict[str, Any]:  # Any: as above
        """Return the arguments of `attach`, without the name."""
        return {
            "layers": list(self.layers) or None,
            "detail": self.detail,
            "budget": self.budget,
            "every": self.every,
            "record": self.record,
            "control": self.control,
            "quiet": self.quiet,
        }
