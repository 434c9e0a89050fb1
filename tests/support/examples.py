"""How many examples a property-based test tries: all of them in `make test-exhaustive`, else a part."""

import os

from hypothesis import settings

__all__ = ["examples"]

IS_EXHAUSTIVE = os.environ.get("GRADSCOPE_TESTS") == "exhaustive"


def examples(count: int) -> settings:
    """Return the settings of a test that tries `count` examples, and a fifth of them in `make test`."""
    return settings(max_examples=count if IS_EXHAUSTIVE else max(count // 5, 20), deadline=None)
