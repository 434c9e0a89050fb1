import math

import pytest

from gradscope.catalogue import INTERVENTIONS, check_arguments, check_site
from gradscope.errors import UsageError
from gradscope.intervene import find_action


@pytest.mark.parametrize(
    ("action", "given", "expected"),
    [
        ("reverse", {}, {"alpha": 1.0}),
        ("scale", {"factor": 0}, {"factor": 0.0}),
        ("scale", {"factor": -2}, {"factor": -2.0}),
        ("clip", {"max_norm": math.inf}, {"max_norm": math.inf, "per": "tensor"}),
        ("clip", {"max_norm": 1, "per": "all"}, {"max_norm": 1.0, "per": "all"}),
        ("clamp", {"limit": 0.5}, {"limit": 0.5}),
        ("stop", {}, {}),
        ("noise", {"std": 0.1}, {"std": 0.1, "seed": 0.0, "relative": False}),
        ("noise", {"std": 0.1, "relative": 1.0}, {"std": 0.1, "seed": 0.0, "relative": True}),
        ("round_activation", {}, {"dtype": "bfloat16"}),
    ],
)
def test_arguments_are_completed_as_floats(action, given, expected):
    assert check_arguments(action, INTERVENTIONS[action].arguments, given) == expected


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
        ("noise", {"std": 1, "seed": 0.5}, "seed must be an integer of at least 0, got 0.5"),
        ("noise", {"std": 1, "relative": "no"}, "relative must be True or False, got 'no'"),
        ("clip", {"max_norm": 1, "per": "row"}, "per must be one of tensor, layer, all, got 'row'"),
        ("round_activation", {"dtype": "int8"}, "dtype must be one of bfloat16, float16"),
    ],
)
def test_a_bad_argument_is_refused_in_words(action, given, words):
    with pytest.raises(UsageError, match=words):
        check_arguments(action, INTERVENTIONS[action].arguments, given)


def test_an_unknown_action_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="no intervention 'flip'; there are: reverse, scale"):
        find_action("flip")


@pytest.mark.parametrize(
    ("action", "site", "arguments", "words"),
    [
        ("scale", "weights", {}, "no site 'weights'; there are: output, input, params"),
        ("zero_activation", "params", {}, "cannot be used with site='params', only with output, input"),
        ("straight_through", "input", {}, "cannot be used with site='input', only with output"),
        (
            "clip",
            "output",
            {"per": "all"},
            "expected site='params', got .* frees the gradient at one",
        ),
    ],
)
def test_a_site_that_is_not_there_is_refused_with_the_reason(action, site, arguments, words):
    with pytest.raises(UsageError, match=words):
        check_site(INTERVENTIONS[action], site, arguments)
