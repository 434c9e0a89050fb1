"""Values for JSON, which has no NaN and no infinity."""

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["compact_json", "plain_value"]


def plain_value(value: Any, digits: int | None = None) -> Any:  # Any: what JSON takes
    """Return a value for JSON, with NaN and infinity as text: "nan", "inf", "-inf".

    digits: of each float that is kept; None: all of them.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {str(key): plain_value(each, digits) for key, each in value.items()}
    return [plain_value(each, digits) for each in value] if isinstance(value, list | tuple) else value


def compact_json(document: object) -> str:
    """Return a document as JSON without spaces."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
