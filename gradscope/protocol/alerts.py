"""What an event tells beside its words when a rule found something."""

import msgspec

from gradscope.protocol.fields import Whole

__all__ = ["AlertInfo"]


class AlertInfo(msgspec.Struct, frozen=True):
    """The numbers of an alert. `layer` is empty for what belongs to no layer, as the loss does."""

    rule: str
    layer: str
    kind: str
    value: float
    threshold: float
    first_step: Whole
    action: str = ""
