import re

import pytest

from gradscope.errors import UnknownLayerError, UsageError
from gradscope.names import match_names

NAMES = [
    "",
    "embed",
    "blocks",
    "blocks.0",
    "blocks.0.fc1",
    "blocks.0.fc2",
    "blocks.1",
    "blocks.1.fc1",
    "head",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("head", ["head"]),
        ("blocks.*.fc1", ["blocks.0.fc1", "blocks.1.fc1"]),
        ("blocks.0*", ["blocks.0", "blocks.0.fc1", "blocks.0.fc2"]),
        ("*", [name for name in NAMES if name]),
        ("", [""]),
        ("re:fc[12]$", ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1"]),
        (re.compile("^e"), ["embed"]),
        (["head", "embed"], ["embed", "head"]),
    ],
)
def test_a_pattern_chooses_names_in_their_order(pattern, expected):
    assert match_names(pattern, NAMES) == expected


def test_an_unknown_layer_is_answered_with_the_nearest_names():
    with pytest.raises(UnknownLayerError, match=r"no layer matches 'blocks.0.fc3'.*blocks.0.fc2"):
        match_names(["head", "blocks.0.fc3"], NAMES)


@pytest.mark.parametrize("bad", [5, ["head", 3], "re:("])
def test_an_invalid_pattern_is_refused(bad):
    with pytest.raises(UsageError):
        match_names(bad, NAMES)
