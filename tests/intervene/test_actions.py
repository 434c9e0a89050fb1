import math

import pytest

from gradscope.errors import UsageError
from gradscope.intervene import ACTIONS, check_action, check_arguments, check_site


@pytest.mark.parametrize(
    ("action", "given", "expected"),
    [
        ("reverse", {}, {"alpha": 1.0}),
        ("scale", {"factor": 0}, {"factor": 0.0}),
        ("scale", {"factor": -2}, {"factor": -2.0}),
        ("clip", {"max_norm": math.inf}, {"max_norm": math.inf}),
        ("clamp", {"limit": 0.5}, {"limit": 0.5}),
        ("stop", {}, {}),
        ("noise", {"std": 0.1}, {"std": 0.1, "seed": 0.0}),
    ],
)
def test_arguments_are_completed_as_floats(action, given, expected):
    assert check_arguments(ACTIONS[action], given) == expected


@pytest.mark.parametrize(
    ("action", "given", "words"),
    [
        ("clip", {"max_norm": -1}, "max_norm must be a number of at least 0, got -1"),
        ("clip", {}, "clip needs max_norm="),
        ("scale", {"factor": math.nan}, "factor must be a finite number, got nan"),
        ("scale", {"factor": math.inf}, "factor must be a finite number, got inf"),
        ("scale", {"factor": "2"}, "factor must be a number, got '2'"),
        ("scale", {"factor": True}, "factor must be a number"),
        ("reverse", {"beta": 1}, "reverse takes the arguments: alpha; got also: beta"),
        ("stop", {"factor": 1}, "stop takes the arguments: none"),
        ("noise", {"std": -0.1}, "std must be a finite number of at least 0"),
    ],
)
def test_a_bad_argument_is_refused_in_words(action, given, words):
    with pytest.raises(UsageError, match=words):
        check_arguments(ACTIONS[action], given)


def test_an_unknown_action_or_site_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="no intervention 'flip'; there are: reverse, scale"):
        check_action("flip")
    with pytest.raises(UsageError, match="no site 'weights'; there are: output"):
        check_site("weights")
