"""The exceptions that gradscope raises, and who causes each one.

    GradscopeError
    ├── UsageError             an argument is wrong or does not fit the model
    │   ├── UnknownLayerError  no layer matches a pattern; the nearest names are given
    │   └── MissingTorchError  the training side was used where torch is not installed
    ├── AlertError             a rule with the action "raise" found something
    ├── NotMeasuredError       a number was requested that was not measured
    ├── NothingToConnectError  no hub, or no such run
    ├── LinkError              the link broke, or does not answer
    │   └── CommandTimeoutError  no step boundary, or no answer, in the time given
    ├── CommandRefusedError    the training process or the hub said no, with the reason
    ├── ProtocolError          the *other* side sent bytes that are not a message
    ├── IncompatibleError      the other side speaks another version of the protocol
    ├── UnsafePathError        a folder or socket is not this user's alone
    └── RecordingError         a recording cannot be read or written

Every message says what was expected, what was found, where, and what to do next.
"""

__all__ = [
    "AlertError",
    "CommandRefusedError",
    "CommandTimeoutError",
    "GradscopeError",
    "IncompatibleError",
    "LinkError",
    "MissingTorchError",
    "NotMeasuredError",
    "NothingToConnectError",
    "ProtocolError",
    "RecordingError",
    "UnknownLayerError",
    "UnsafePathError",
    "UsageError",
]


class GradscopeError(Exception):
    """The root of all exceptions that gradscope raises."""


class UsageError(GradscopeError, ValueError):
    """An argument is of the wrong type, out of range, or does not fit the model."""


class UnknownLayerError(UsageError):
    """No layer of the model matches the pattern. The message names the most similar layers."""


class MissingTorchError(UsageError):
    """A function of the training side was called, and torch is not installed."""


class AlertError(GradscopeError):
    """A rule with the action "raise" has found something. Training stops."""


class NotMeasuredError(GradscopeError, KeyError):
    """The requested number was not measured. Never raised for a number that is zero."""

    def __str__(self) -> str:
        """Return the message without the quotes that KeyError adds."""
        return str(self.args[0]) if self.args else ""


class NothingToConnectError(GradscopeError):
    """There is no hub, no run with that name, or more than one run to choose from."""


class LinkError(GradscopeError):
    """The link to the hub broke or the hub does not answer. Not raised for a refusal."""


class CommandTimeoutError(LinkError):
    """A command was not acknowledged in time. It may still take effect later."""


class CommandRefusedError(GradscopeError):
    """The hub or the training process refused a command. Nothing was changed."""


class ProtocolError(GradscopeError):
    """The peer sent bytes that are not a message of this protocol."""


class IncompatibleError(GradscopeError):
    """The peer uses another version of the protocol. Upgrade the older side."""


class UnsafePathError(GradscopeError):
    """A directory or socket belongs to another user or is accessible to others."""


class RecordingError(GradscopeError):
    """A recording cannot be opened, read or written."""
