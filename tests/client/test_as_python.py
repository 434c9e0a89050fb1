"""The lines that `copy as Python` gives do what the intervention did: they are run here."""

import math

import pytest
import torch

import gradscope
from gradscope.client import python_lines
from support.models import make_model

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


def trained(model, before_step=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().sum().backward()
    if before_step is not None:
        exec(before_step, {"model": model, "torch": torch})
    optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


CASES = [
    lambda s, **how: s.reverse("2", alpha=0.5, **how),
    lambda s, **how: s.scale(["0", "2"], factor=-2.0, **how),
    lambda s, **how: s.clip("2", max_norm=0.25, **how),
    lambda s, **how: s.clip("2", max_norm=math.inf, **how),
    lambda s, **how: s.clamp("2", limit=0.01, **how),
    lambda s, **how: s.stop("2", **how),
    lambda s, **how: s.replace_nonfinite("2", value=1.0, **how),
    lambda s, **how: s.noise("2", std=0.1, seed=4, relative=True, **how),
]


@pytest.mark.parametrize("site", ["output", "input", "params"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_each_python_line_gives_the_same_weights(case, site):
    model = make_model()
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        CASES[case](scope, site=site)
        (state,) = scope.interventions
        expected = trained(model)
    first, *others = python_lines(state, scope._run.manifest.actions)
    again = make_model()
    with gradscope.attach(again, hub=None, quiet=True) as scope:
        exec(first, {"scope": scope})
        assert all(torch.equal(a, b) for a, b in zip(trained(again), expected, strict=True))
    assert len(others) == (0 if site == "params" and state.action == "noise" else 1)
    for line in others:
        bare = make_model()
        if site == "params":
            got = trained(bare, line)
        else:
            exec(line, {"model": bare, "gradscope": gradscope})
            got = trained(bare)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("install", "line"),
    [
        (
            lambda s: s.clip(["0", "2"], max_norm=1.0, per="all", site="params"),
            "scope.clip(['0', '2'], max_norm=1.0, per='all', site='params')",
        ),
        (
            lambda s: s.reverse("2", start_step=5, ramp="0:1:9:dann", when="norm > 1"),
            "scope.reverse('2', alpha=1.0, start_step=5, ramp='alpha=0.0:1.0:9:dann', when='norm > 1')",
        ),
        (lambda s: s.zero_activation("2", every_steps=2), "scope.zero_activation('2', every_steps=2)"),
        (
            lambda s: s.round_activation("2", dtype="float16"),
            "scope.round_activation('2', dtype='float16')",
        ),
    ],
)
def test_site_and_schedule_are_arguments_of_the_one_line(install, line):
    model = make_model()
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        install(scope)
        (state,) = scope.interventions
        lines = python_lines(state, scope._run.manifest.actions)
        assert lines == (line,)
        exec(line, {"scope": scope})
        assert scope.interventions[1].schedule == state.schedule
