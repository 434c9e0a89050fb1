"""The eight messages, provoked in the PyTorch that is installed, and recognised."""

import pytest
import torch
from torch.autograd import Function, gradcheck

from gradscope.doctor import KNOWN_MESSAGES, examine, recognise


def make(forward, backward):
    return type(
        "F", (Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    )


def x():
    return torch.randn(3, 4, requires_grad=True)


def modified_after_saving():
    a = x()
    y = torch.sigmoid(a)
    y.mul_(2)
    y.sum().backward()


def leaf_in_place():
    x().mul_(2)


def view_in_place():
    make(lambda ctx, a: a, lambda ctx, g: g).apply(x() * 1).relu_()


def expanded_in_place():
    make(lambda ctx, a: a.clone(), lambda ctx, g: g.mul_(2)).apply(x()).sum().backward()


def no_scalar():
    (x() * 2).backward()


def too_few():
    make(lambda ctx, a, b: a * b, lambda ctx, g: g).apply(x(), x()).sum().backward()


def too_many():
    make(lambda ctx, a: a * 2, lambda ctx, g: (g, g)).apply(x()).sum().backward()


def sizes():
    torch.ones(3, 4) + torch.ones(3, 5)


def sizes_of_cat():
    torch.cat([torch.ones(3, 4), torch.ones(2, 5)])


def sizes_of_product():
    torch.ones(3, 4) @ torch.ones(3, 5)


def gradient_shape():
    make(lambda ctx, a: a * 2, lambda ctx, g: g.sum()).apply(x()).sum().backward()


def jacobian(fast):
    wrong = make(lambda ctx, a: a * 2, lambda ctx, g: g)
    gradcheck(wrong.apply, (torch.randn(3, dtype=torch.double, requires_grad=True),), fast_mode=fast)


def no_saved_tensors():
    make(lambda ctx, a: a * 2, lambda ctx, g: ctx.saved_tensor).apply(x()).sum().backward()


def saves_int():
    make(lambda ctx, a: (ctx.save_for_backward(a, 3), a * 2)[1], lambda ctx, g: g).apply(x())


PROVOKED = [
    ("modified by an in-place operation", modified_after_saving),
    ("modified by an in-place operation", leaf_in_place),
    ("modified by an in-place operation", view_in_place),
    ("modified by an in-place operation", expanded_in_place),
    ("grad can be implicitly created only for scalar outputs", no_scalar),
    ("expected X gradients, got Y", too_few),
    ("expected X gradients, got Y", too_many),
    ("sizes of tensors must match", sizes),
    ("sizes of tensors must match", sizes_of_cat),
    ("sizes of tensors must match", sizes_of_product),
    ("invalid gradient shape at index", gradient_shape),
    ("gradcheck failed", lambda: jacobian(False)),
    ("gradcheck failed", lambda: jacobian(True)),
    ("no attribute saved_tensors", no_saved_tensors),
    ("save_for_backward given non-tensors", saves_int),
]


@pytest.mark.parametrize(("name", "provoke"), PROVOKED)
def test_the_messages_of_this_torch_are_recognised(name, provoke):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each is of another class
        provoke()
    row = recognise(str(caught.value))
    assert row is not None, str(caught.value)
    assert row.name == name
    assert row.cause
    assert row.cure


@pytest.mark.parametrize(("name", "provoke"), PROVOKED)
def test_a_known_message_is_named_if_an_examination_raises_it(name, provoke):
    def examined(a):
        provoke()
        return a * 2

    first = examine(examined, torch.randn(3, 4)).findings[0]
    said = " ".join([first.message, *map(str, first.evidence.values())])
    assert name in said or first.code in ("wrong-gradient-count", "non-tensor-saved")
    assert first.cause == recognise(first.message).cause
    assert first.severity == "error"


def test_a_known_message_is_named_in_backward_and_in_a_variation():
    late = make(lambda ctx, a: a * 2, lambda ctx, g: g @ torch.ones(7, 7))
    report = examine(late, torch.randn(3, 4))
    assert report.codes[0] == "backward-raises"
    assert report.findings[0].evidence["known_message"].startswith("sizes of tensors must match: ")
    viewing = make(
        lambda ctx, a: a.view(-1) * 3 + torch.ones(12 if a.is_contiguous() else 11),
        lambda ctx, g: 3 * g.view(3, 4),
    )
    report = examine(viewing, torch.randn(3, 4))
    assert report.codes[0] == "fails-on-noncontiguous"


def test_each_of_the_eight_known_messages_is_provoked():
    assert len(KNOWN_MESSAGES) == 8
    assert {row.name for row in KNOWN_MESSAGES} == {name for name, _ in PROVOKED}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("backward: expected 2 gradients, got 1", "expected X gradients, got Y"),
        ("'FBackward' object has no attribute 'saved_variables'", "no attribute saved_tensors"),
        ("Sizes of tensors must match except in dimension 1", "sizes of tensors must match"),
    ],
)
def test_the_messages_of_older_versions_are_recognised(text, name):
    row = recognise(text)
    assert row is not None
    assert row.name == name


def test_other_messages_are_not_recognised():
    assert recognise("CUDA out of memory") is None
    assert recognise("") is None
