"""The arguments of `attach`, validated once."""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns

__all__ = ["Settings"]

_DETAILS = ("core", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run, as documented in `attach`. Raises UsageError for invalid arguments.

    hub: None for no link, "auto", or a directory. is_inert: GRADSCOPE=0 is set in the environment.
    """

    run: str
    optimizer: Optimizer | None
    layers: LayerPatterns | None
    detail: str
    record: bool | str | PathLike[str]
    hub: str | None
    is_controllable: bool
    scaler: GradScaler | None
    start_step: int
    memory_limit_bytes: int | None
    resources_every: int | None
    has_digest: bool = False
    is_quiet: bool = False
    is_inert: bool

    def __post_init__(self) -> None:
        optimizer, scaler, limit = self.optimizer, self.scaler, self.memory_limit_bytes
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise UsageError(
                f"attach(model, optimizer) takes a torch.optim.Optimizer, got {_type(optimizer)}"
            )
        if scaler is not None and not isinstance(scaler, GradScaler):
            raise UsageError(f"scaler must be a torch.amp.GradScaler, got {_type(scaler)}")
        if self.detail not in _DETAILS:
            raise UsageError(f"detail must be one of {', '.join(_DETAILS)}, got {self.detail!r}")
        if not isinstance(self.start_step, int) or self.start_step < 0:
            raise UsageError(f"start_step must be an integer of at least 0, got {self.start_step!r}")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise UsageError(
                "memory_limit_bytes must be an integer number of bytes of at least 1, or None for no "
                f"limit, got {limit!r}"
            )
        every = self.resources_every
        if every is not None and (not isinstance(every, int) or every < 1):
            raise UsageError(
                "resources_every must be an integer number of steps of at least 1, or None for few chosen "
                f"ones, got {every!r}"
            )

    @property
    def is_full(self) -> bool:
        """Whether the detail is "full"."""
        return self.detail == "full"

    @property
    def has_hub(self) -> bool:
        """Whether the run connects to a hub."""
        return self.hub is not None and not self.is_inert

    @property
    def endpoint(self) -> str | None:
        """The directory of the hub; None for the default hub of this user."""
        return None if self.hub == "auto" else self.hub

    @property
    def recorded_at(self) -> str | None:
        """The path of the recording: None for the default path, empty for no recording."""
        if isinstance(self.record, bool):
            return None if self.record else ""
        return str(Path(fspath(self.record)).absolute())


def _type(value: object) -> str:
    return type(value).__name__
