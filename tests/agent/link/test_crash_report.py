"""Exceptions that end a watched run: named in the recording, and otherwise as without gradscope."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd import Function

import gradscope
from gradscope.agent.link.crash_report import describe_exception
from gradscope.doctor import KNOWN_MESSAGES
from gradscope.errors import RecordingError
from gradscope.recording import default_path, open_recording
from support import fork_server

pytestmark = pytest.mark.slow

TRAINING = """
import sys, time
import torch
from torch import nn
from torch.autograd import Function
import gradscope

class Twice(Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy, dy

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc2(self.fc1(x))

def train():
    model = nn.Sequential(Block(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, every=1, name=sys.argv[2], quiet=True)
    deadline_s = time.monotonic() + 60
    while scope.endpoint is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    fault(model, scope)

def raising():
    raise RuntimeError("a fault of the user's own")

def shape(model, scope):
    model(torch.ones(3, 5))

def count(model, scope):
    Twice.apply(model(torch.ones(3, 4))).sum().backward()

def own(model, scope):
    raising()

def inside(model, scope):
    with scope:
        model(torch.ones(3, 5))

fault = globals()[sys.argv[1]]
if "bare" in sys.argv:
    class Bare:
        endpoint = ""
        def __enter__(self): return self
        def __exit__(self, *error): pass
    gradscope.attach = lambda *args, **options: Bare()
train()
"""


FRESH = ("own", "own")
"""The training whose process is a fresh interpreter; the others are forked."""


def run_training(path, *arguments):
    path.write_text(TRAINING)
    run = subprocess.run if arguments == FRESH else fork_server.run
    return run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.processes
@pytest.mark.usefixtures("ended_hubs")
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            "shape",
            "exception.sizes-of-tensors-must-match",
            ["in layer 0.fc1 (Linear)", "Cause: ", "Cure: "],
        ),
        (
            "count",
            "exception.expected-x-gradients-got-y",
            ["in Twice.backward", "as many values as forward"],
        ),
        ("own", "exception", ["RuntimeError: a fault of the user's own (at train.py:"]),
        ("inside", "exception.sizes-of-tensors-must-match", ["in layer 0.fc1 (Linear)"]),
    ],
)
def test_the_exception_is_in_the_recording_after_the_process_has_died(
    tmp_path, fault, code, words, wait_until
):
    ran = run_training(tmp_path / "train.py", fault, fault)
    bare = run_training(tmp_path / "train.py", fault, fault, "bare")
    assert ran.returncode == bare.returncode == 1
    assert own_lines(ran.stderr) == own_lines(bare.stderr)
    wait_until(lambda: events_of(fault), "the event in the recording")
    (event,) = events_of(fault)
    assert (event.level, event.code, event.step) == ("error", code, 3)
    for part in words:
        assert part in event.text
    assert ("gradscope: " in ran.stderr) == (code != "exception")


def own_lines(stderr):
    """Return the traceback without torch's frames, which are others where there is a hook."""
    lines = [line for line in stderr.splitlines() if not line.startswith("gradscope: ")]
    return [line for line in lines if "train.py" in line or line[:1].strip()]


def events_of(run):
    if not default_path(run).exists():
        return []
    try:
        with open_recording(default_path(run)) as recording:
            return [event for event in recording.events() if event.code.startswith("exception")]
    except RecordingError:
        return []  # the hub has not written to it yet


def raised(work):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        work()
    return caught.value


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        return x @ torch.ones(2, 3) if x.numel() == 4 else 2 * x

    @staticmethod
    def backward(ctx, dy):
        raise ValueError("no gradient today")


class Doubling(nn.Module):
    def forward(self, x):
        return Doubled.apply(x)


def test_the_function_the_layer_and_the_line_are_named():
    model = nn.Sequential(nn.Linear(4, 4), Doubling())
    forward = describe_exception(raised(lambda: model[1](torch.ones(4))), model)
    assert forward.code == "exception.sizes-of-tensors-must-match"
    assert "(in Doubled.forward, in layer 1 (Doubling), at test_crash_report.py:" in forward.text
    backward = describe_exception(raised(lambda: model(torch.ones(2, 4)).sum().backward()), model)
    assert backward.code == "exception"
    assert (
        "ValueError: no gradient today (in Doubled.backward, at test_crash_report.py:" in backward.text
    )


def test_a_known_exception_is_found_behind_the_one_that_was_raised_from_it():
    model = nn.Sequential(nn.Linear(4, 4))

    def wrapping():
        try:
            model(torch.ones(3))
        except RuntimeError as error:
            raise KeyError("step 3") from error

    account = describe_exception(raised(wrapping), model)
    assert account.code == "exception.sizes-of-tensors-must-match"
    assert "in layer 0 (Linear)" in account.text


def test_a_very_long_message_is_shortened_and_an_unusual_one_is_accepted():
    assert len(describe_exception(RuntimeError("x" * 10**6), None).text) < 700
    assert describe_exception(RuntimeError(), None).code == "exception"
    loop = ValueError("a")
    loop.__cause__ = KeyError("b")
    loop.__cause__.__cause__ = loop
    assert describe_exception(loop, None).text == "ValueError: a."


def wrong(forward, backward):
    return type(
        "Wrong", (Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    )


def some():
    return torch.ones(3, 4, requires_grad=True)


def written_after_it_was_saved():
    y = torch.sigmoid(some())
    y.mul_(2).sum().backward()


PROVOKED = {
    "modified-by-an-in-place-operation": written_after_it_was_saved,
    "grad-can-be-implicitly-created-only-for-scalar-outputs": lambda: some().mul(2).backward(None),
    "expected-x-gradients-got-y": lambda: (
        wrong(lambda _, a, b: a * b, lambda _, g: g).apply(some(), some()).sum().backward()
    ),
    "sizes-of-tensors-must-match": lambda: torch.ones(3, 4) @ torch.ones(3, 5),
    "invalid-gradient-shape-at-index": lambda: (
        wrong(lambda _, a: a * 2, lambda _, g: g.sum()).apply(some()).sum().backward()
    ),
    "gradcheck-failed": lambda: torch.autograd.gradcheck(
        wrong(lambda _, a: a * 2, lambda _, g: g).apply, (some().double(),)
    ),
    "no-attribute-saved_tensors": lambda: (
        wrong(lambda _, a: a * 2, lambda ctx, g: ctx.saved_tensor).apply(some()).sum().backward()
    ),
    "save_for_backward-given-non-tensors": lambda: wrong(
        lambda ctx, a: (ctx.save_for_backward(3), a * 2)[1], lambda _, g: g
    ).apply(some()),
}


@pytest.mark.processes
@pytest.mark.usefixtures("ended_hubs")
def test_each_known_message_becomes_an_event_of_the_run(wait_until):
    for code, provoke in PROVOKED.items():
        error = raised_when_watched(provoke, code, wait_until)
        wait_until(lambda run=code: events_of(run), f"the event of {code}")
        (event,) = events_of(code)
        assert (event.level, event.code) == ("error", f"exception.{code}")
        assert " ".join(str(error).split())[:80] in event.text
        assert "Cause: " in event.text
        assert "Cure: " in event.text
    assert len(PROVOKED) == len(KNOWN_MESSAGES)


def raised_when_watched(provoke, run, wait_until):
    """Return the exception as it comes out of a watched block: the very one that was raised."""
    raised_inside = []

    def train():
        model = nn.Linear(2, 2)
        with gradscope.attach(model, every=1, name=run, quiet=True) as scope:
            wait_until(lambda: scope.endpoint is not None, "a hub")
            model(torch.ones(1, 2)).sum().backward()
            scope.mark_step()
            try:
                provoke()
            except Exception as error:
                raised_inside.append(error)
                raise

    error = raised(train)
    assert error is raised_inside[0]
    return error


def test_every_known_message_gives_a_code_of_its_own():
    texts = [
        "modified by an inplace operation", "grad can be implicitly created only for scalar outputs",
        "returned an incorrect number of gradients (expected 1, got 2)",
        "returned an invalid gradient at index 0 - got [3] but expected shape compatible with [2]",
        "size mismatch", "gradcheck failed", "'X' object has no attribute 'saved_tensors'",
        "save_for_backward can only save variables, but argument 0 is of type int",
    ]  # fmt: skip
    codes = {describe_exception(RuntimeError(text), None).code for text in texts}
    assert len(codes) == len(KNOWN_MESSAGES) == 8
    assert all(code.startswith("exception.") and code == code.lower() for code in codes)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_the_original_excepthook_is_restored_in_any_order_of_detaching(order):
    before = sys.excepthook
    models = [nn.Linear(2, 2) for _ in range(3)]
    scopes = [gradscope.attach(model, hub=None, quiet=True) for model in models]
    assert sys.excepthook is not before
    for index in order:
        scopes[index].detach()
    assert sys.excepthook is before


def test_an_excepthook_set_after_attach_stays_and_still_calls_the_original(monkeypatch):
    called = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: called.append("below"))
    model = nn.Linear(2, 2)
    scope = gradscope.attach(model, hub=None, quiet=True)
    ours = sys.excepthook

    def above(*error):
        called.append("above")
        ours(*error)

    sys.excepthook = above
    scope.detach()
    assert sys.excepthook is above
    sys.excepthook(ValueError, ValueError("x"), None)
    assert called == ["above", "below"]


def test_an_internal_error_is_counted_and_the_users_exception_propagates(monkeypatch):
    class UnspeakableError(RuntimeError):
        def __str__(self):
            raise ValueError("cannot be told")

    model = nn.Linear(2, 2)
    scope = gradscope.attach(model, hub=None, quiet=True)
    error = UnspeakableError()
    with pytest.raises(UnspeakableError) as caught, scope:
        raise error
    assert caught.value is error
    assert scope.faults == {"naming an exception": 1}


def test_a_keyboard_interrupt_is_not_reported_and_nothing_is_imported_before_an_exception():
    script = """
import sys, torch, gradscope
model = torch.nn.Linear(2, 2)
with gradscope.attach(model, hub=None, quiet=True):
    model(torch.ones(1, 2))
try:
    with gradscope.attach(model, hub=None, quiet=True):
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
print(*sorted(name for name in sys.modules if name.startswith("gradscope.doctor")))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "", "")
