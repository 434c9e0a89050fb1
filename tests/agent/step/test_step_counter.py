"""The tally, in Python and in C: the same steps are counted, and all else is left to others."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from gradscope.agent.step.step_counter import StepCounter
from gradscope.observe import NO_ACTIVE_MODES, native_module

needs_native = pytest.mark.skipif(native_module() is None, reason="the native pass was not built")


class Clock:
    """Goes on by a second each time that it is read."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


class Setting:
    """A tally with an optimizer, and what it leaves to others."""

    def __init__(self, kind):
        self.numbers = iter(range(7, 1000))
        self.left_to_others = []
        self.optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(5, 2))])
        begin, end = (
            lambda *a, w=w: self.left_to_others.append((w, *a)) or w for w in ("begin", "end")
        )
        usual = () if kind == "python" else (NO_ACTIVE_MODES,)
        make = StepCounter if kind == "python" else native_module().StepCounter
        self.tally = make(40, Clock(), lambda: next(self.numbers), begin, end, *usual)
        self.tally.optimizer = weakref.ref(self.optimizer)
        self.args = (self.optimizer,)

    def before(self, optimizer=None, args=None, kwargs=None):
        optimizer = optimizer or self.optimizer
        return self.tally.before(optimizer, self.args if args is None else args, kwargs or {})

    def after(self, optimizer=None):
        return self.tally.after(optimizer or self.optimizer, self.args, {})


@pytest.fixture(params=["python", pytest.param("native", marks=needs_native)])
def setting(request):
    return Setting(request.param)


@pytest.fixture
def in_c():
    if native_module() is None:
        pytest.skip("the native pass was not built")
    setting = Setting("native")
    setting.tally.left, setting.tally.every = 100, 4
    for group in setting.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    return setting


def test_steps_are_counted_with_their_times_and_autograds_numbers(setting):
    tally = setting.tally
    assert (tally.step, tally.began_at, tally.is_at_rest()) == (40, 7, False)
    began_s = tally.began_s
    tally.left = 3
    setting.after()
    assert (tally.step, tally.began_at, tally.left) == (41, 8, 2)
    assert tally.began_s > began_s
    setting.after()
    # The clock is read when a step ends, and again when that has been counted.
    assert tally.take() == ([1.0, 2.0], 2.0, 0, 0.0)
    assert tally.take() == ([], 0.0, 0, 0.0)
    assert setting.left_to_others == []


def test_the_counter_handles_only_idle_steps(setting):
    tally = setting.tally
    assert (setting.before(), setting.after()) == ("begin", "end")
    tally.left, tally.looks_at = 5, 50
    tally.is_stirred = True
    assert (setting.before(), setting.after()) == ("begin", "end")
    tally.is_stirred = False
    tally.awake.add("someone")
    assert (setting.before(), setting.after()) == ("begin", "end")
    tally.awake.clear()
    assert (setting.before(), setting.after()) == (None, None)
    assert len(setting.left_to_others) == 6
    assert setting.left_to_others[0] == ("begin", setting.optimizer, setting.args, {})
    assert tally.step == 41


def test_steps_of_another_optimizer_or_with_a_closure_are_not_idle(setting):
    tally = setting.tally
    tally.left, tally.looks_at = 5, 50
    other = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    assert (setting.before(other), setting.after(other)) == ("begin", "end")
    assert setting.before(args=(setting.optimizer, print)) == "begin"
    assert setting.before(kwargs={"closure": print}) == "begin"
    tally.optimizer = None
    assert (setting.before(), setting.after()) == ("begin", "end")
    assert tally.step == 40


def test_a_step_with_a_nonfinite_check_is_not_idle_unless_the_counter_checks(setting):
    setting.tally.left, setting.tally.looks_at = 5, 41
    assert setting.before() is None
    setting.after()
    assert setting.before() == "begin"


def test_the_counter_checks_every_n_steps(in_c):
    looked = []
    for _ in range(10):
        before = in_c.tally.looks_at
        assert in_c.before() is None
        looked.append(in_c.tally.looks_at != before)
        in_c.after()
    assert looked == [True, False, False, False] * 2 + [True, False]
    assert in_c.tally.take()[2:] == (3, 3.0)
    assert in_c.left_to_others == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_the_counter_reports_nonfinite_gradients_and_checks_again(in_c, bad, which):
    parameter = in_c.optimizer.param_groups[0]["params"][which]
    parameter.grad.view(-1)[-1] = bad
    assert in_c.before() == "begin"
    assert in_c.tally.looks_at == 0
    parameter.grad.zero_()
    assert in_c.before() is None


def test_parameters_of_later_groups_and_without_gradients_are_checked(in_c):
    late = nn.Parameter(torch.ones(4))
    in_c.optimizer.add_param_group({"params": [late]})
    assert in_c.before() is None  # it has no gradient
    in_c.tally.looks_at = 0
    late.grad = torch.tensor([0.0, 0.0, math.nan, 0.0])
    assert in_c.before() == "begin"


def test_the_counter_skips_gradients_that_it_cannot_read(in_c):
    parameter = in_c.optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones(3).to_sparse()
    assert in_c.before() == "begin"
    parameter.grad = torch.ones(3)
    in_c.optimizer.found_inf = torch.zeros(())  # a GradScaler has looked, and the optimizer heeds it
    assert in_c.before() == "begin"
    del in_c.optimizer.found_inf
    assert in_c.before() is None


def test_no_mode_observes_the_check(in_c):
    class Mode(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            Mode.seen += 1
            return function(*args, **(kwargs or {}))

    with Mode():
        assert in_c.before() == "begin"
    assert Mode.seen == 0


def test_a_parameter_subclass_does_not_notice_the_check(in_c):
    class Seeing(nn.Parameter):
        seen = 0

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.seen += 1
            return super().__torch_function__(function, types, args, kwargs or {})

    parameter = torch.ones(3).as_subclass(Seeing)
    in_c.optimizer.param_groups[0]["params"].append(parameter)
    Seeing.seen = 0
    assert in_c.before() == "begin"
    assert Seeing.seen == 0


def test_an_unusual_optimizer_does_not_raise_into_the_training(in_c):
    in_c.optimizer.param_groups[0]["params"] = (nn.Parameter(torch.ones(2)),)
    assert in_c.before() == "begin"
    in_c.optimizer.param_groups = None
    assert in_c.before() == "begin"


@needs_native
def test_the_counter_is_garbage_collected_with_its_references():
    class Owner:
        def begin(self, *_):
            pass

    owner = Owner()
    owner.tally = native_module().StepCounter(0, Clock(), lambda: 0, owner.begin, owner.begin, ())
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
