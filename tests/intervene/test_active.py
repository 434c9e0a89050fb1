"""One intervention at work by itself: its random numbers, its loss scale, its failures."""

import pytest
import torch

from gradscope.intervene import ACTIONS, ActiveIntervention, Schedule

GRADIENT = torch.randn(50, generator=torch.Generator().manual_seed(1))


def nothing():
    return None


def noise(rank, **how):
    return ActiveIntervention(
        ACTIONS["noise"], {"std": 1.0, "seed": 3.0, "relative": False}, seed=3, rank=rank, **how
    )


def test_each_rank_draws_numbers_of_its_own_but_for_parameters_that_all_hold_alike():
    def drawn(rank, *, is_shared):
        return noise(rank).apply_to_gradients([GRADIENT], nothing, is_shared=is_shared)[0]

    assert not torch.equal(drawn(0, is_shared=False), drawn(1, is_shared=False))
    assert torch.equal(drawn(0, is_shared=True), drawn(1, is_shared=True))
    assert torch.equal(drawn(0, is_shared=False), drawn(0, is_shared=True))


def test_numbers_go_on_from_draw_to_draw_and_repeat_from_the_seed():
    one, other = noise(0), noise(0)
    first = [one.apply_to_gradients([GRADIENT], nothing, is_shared=False)[0] for _ in range(3)]
    again = [other.apply_to_gradients([GRADIENT], nothing, is_shared=False)[0] for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clip", {"max_norm": 0.5, "per": "tensor"}),
        ("clamp", {"limit": 0.25}),
        ("scale", {"factor": -3.0}),
        ("replace_nonfinite", {"value": 0.5}),
    ],
)
def test_under_a_loss_scale_it_does_to_the_true_gradient_what_it_does_without(name, arguments, dtype):
    gradient = GRADIENT.clone()
    gradient[3] = float("inf") if name == "replace_nonfinite" else 1.0
    gradient = gradient.to(dtype)
    scale = torch.tensor(256.0)
    plain = ActiveIntervention(ACTIONS[name], arguments).apply_to_gradients(
        [gradient], nothing, is_shared=False
    )[0]
    scaled = ActiveIntervention(ACTIONS[name], arguments).apply_to_gradients(
        [gradient * 256], lambda: scale, is_shared=False
    )[0]
    assert scaled.dtype is dtype
    rtol = 1e-2 if dtype.itemsize == 2 else 1e-6
    torch.testing.assert_close(scaled.float() / 256, plain.float(), rtol=rtol, atol=0)


def test_a_neutral_value_hands_back_the_very_same_tensor_under_a_loss_scale_too():
    for name, arguments in (
        ("clip", {"max_norm": float("inf"), "per": "tensor"}),
        ("scale", {"factor": 1.0}),
    ):
        for unit in (nothing, lambda: torch.tensor(3.0)):
            (same,) = ActiveIntervention(ACTIONS[name], arguments).apply_to_gradients(
                [GRADIENT], unit, is_shared=False
            )
            assert same is GRADIENT


def test_a_failure_is_reported_once_and_the_tensors_stay():
    told = []
    applied = ActiveIntervention(ACTIONS["noise"], {}, schedule=Schedule(), on_failure=told.append)
    for _ in range(2):
        (same,) = applied.apply_to_gradients([GRADIENT], nothing, is_shared=False)
        assert same is GRADIENT
    assert told == [applied.failure] == ["KeyError: 'std'"]
    assert not applied.begin(0, 1)
