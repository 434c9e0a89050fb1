"""The step counter in Python and in C: both count the same steps, and pass on all others."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from gradscope.agent.run.step_counter import StepCounter
from gradscope.observe import NO_ACTIVE_MODES, native_module

needs_native = pytest.mark.skipif(native_module() is None, reason="the native pass was not built")


class Clock:
    """Advances by a second each time that it is read."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


class Setting:
    """A step counter with an optimizer, and the calls that it passes on to the engine."""

    def __init__(self, kind):
        self.numbers = iter(range(7, 1000))
        self.passed_on = []
        self.optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(5, 2))])
        guards = () if kind == "python" else (NO_ACTIVE_MODES,)
        make = StepCounter if kind == "python" else native_module().StepCounter
        self.counter = make(40, Clock(), lambda: next(self.numbers), *guards)
        self.counter.on_begin = lambda *a: self.passed_on.append(("begin", *a)) or "begin"
        self.counter.on_end = lambda *a: self.passed_on.append(("end", *a)) or "end"
        self.counter.optimizer = weakref.ref(self.optimizer)
        self.args = (self.optimizer,)

    def before(self, optimizer=None, args=None, kwargs=None):
        optimizer = optimizer or self.optimizer
        return self.counter.before(optimizer, self.args if args is None else args, kwargs or {})

    def after(self, optimizer=None):
        return self.counter.after(optimizer or self.optimizer, self.args, {})


@pytest.fixture(params=["python", pytest.param("native", marks=needs_native)])
def setting(request):
    return Setting(request.param)


@pytest.fixture
def in_c():
    if native_module() is None:
        pytest.skip("the native pass was not built")
    setting = Setting("native")
    setting.counter.left, setting.counter.check_every = 100, 4
    for group in setting.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    return setting


def test_idle_steps_are_counted_with_their_times_and_autograds_operation_count(setting):
    counter = setting.counter
    assert (counter.step, counter.began_at, counter.is_idle()) == (40, 7, False)
    began_s = counter.began_s
    counter.left = 3
    setting.after()
    assert (counter.step, counter.began_at, counter.left) == (41, 8, 2)
    assert counter.began_s > began_s
    setting.after()
    # The clock is read when a step ends, and again when that has been counted.
    assert counter.take() == ([1.0, 2.0], 2.0, 0, 0.0)
    assert counter.take() == ([], 0.0, 0, 0.0)
    assert setting.passed_on == []


def test_a_step_is_passed_on_unless_it_is_idle(setting):
    counter = setting.counter
    assert (setting.before(), setting.after()) == ("begin", "end")
    counter.left, counter.checks_at = 5, 50
    counter.must_plan = True
    assert (setting.before(), setting.after()) == ("begin", "end")
    counter.must_plan = False
    assert (setting.before(), setting.after()) == (None, None)
    assert len(setting.passed_on) == 4
    assert setting.passed_on[0] == ("begin", setting.optimizer, setting.args, {})
    assert counter.step == 41


def test_another_optimizer_a_closure_and_a_collected_optimizer_are_passed_on(setting):
    counter = setting.counter
    counter.left, counter.checks_at = 5, 50
    other = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    assert (setting.before(other), setting.after(other)) == ("begin", "end")
    assert setting.before(args=(setting.optimizer, print)) == "begin"
    assert setting.before(kwargs={"closure": print}) == "begin"
    counter.optimizer = None
    assert (setting.before(), setting.after()) == ("begin", "end")
    assert counter.step == 40


def test_an_optimizer_that_leads_the_step_is_passed_on_only_if_it_steps_twice(setting):
    counter = setting.counter
    counter.left, counter.checks_at = 5, 50
    leading = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    counter.leading = (weakref.ref(leading),)
    for _ in range(2):
        assert (setting.before(leading, (leading,)), setting.after(leading)) == (None, None)
        assert [reference() for reference in counter.led] == [leading]
        assert (setting.before(), setting.after()) == (None, None)
        assert counter.led == []
    assert counter.step == 42
    assert setting.before(leading, (leading,)) is None
    assert (
        setting.before(leading, (leading,)) == "begin"
    )  # without a step of the counted one in between
    counter.must_plan = True
    assert setting.after(leading) == "end"


def test_a_due_gradient_check_is_passed_on_unless_the_counter_checks_itself(setting):
    setting.counter.left, setting.counter.checks_at = 5, 41
    assert setting.before() is None
    setting.after()
    assert setting.before() == "begin"


def test_it_checks_one_step_in_n_itself(in_c):
    checked = []
    for _ in range(10):
        before = in_c.counter.checks_at
        assert in_c.before() is None
        checked.append(in_c.counter.checks_at != before)
        in_c.after()
    assert checked == [True, False, False, False] * 2 + [True, False]
    assert in_c.counter.take()[2:] == (3, 3.0)
    assert in_c.passed_on == []


def test_the_gradients_of_a_leading_optimizer_are_checked_in_the_same_steps(in_c):
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), math.inf)
    leading = torch.optim.SGD([parameter])
    in_c.counter.leading = (weakref.ref(leading),)
    answers = []
    for _ in range(8):
        answers.append(in_c.before(leading, (leading,)))
        assert in_c.before() is None
        in_c.after()
    assert answers == ["begin", None, None, None] * 2
    assert in_c.counter.take()[2] == 2  # checks of a whole step


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_it_passes_on_a_nonfinite_gradient_and_checks_again(in_c, bad, which):
    parameter = in_c.optimizer.param_groups[0]["params"][which]
    parameter.grad.view(-1)[-1] = bad
    assert in_c.before() == "begin"
    assert in_c.counter.checks_at == 0
    assert in_c.counter.take()[2:] == (0, 0.0)  # Python checks again and counts the whole time
    parameter.grad.zero_()
    assert in_c.before() is None


def test_later_groups_are_checked_and_missing_gradients_skipped(in_c):
    late = nn.Parameter(torch.ones(4))
    in_c.optimizer.add_param_group({"params": [late]})
    assert in_c.before() is None  # it has no gradient
    in_c.counter.checks_at = 0
    late.grad = torch.tensor([0.0, 0.0, math.nan, 0.0])
    assert in_c.before() == "begin"


def test_gradients_that_c_cannot_read_are_passed_to_python(in_c):
    parameter = in_c.optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones(3).to_sparse()
    assert in_c.before() == "begin"
    parameter.grad = torch.ones(3)
    in_c.optimizer.found_inf = torch.zeros(
        ()
    )  # a GradScaler has checked, and the optimizer reads the result
    assert in_c.before() == "begin"
    del in_c.optimizer.found_inf
    assert in_c.before() is None


def test_an_active_mode_sees_no_check(in_c):
    class Mode(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            Mode.seen += 1
            return function(*args, **(kwargs or {}))

    with Mode():
        assert in_c.before() == "begin"
    assert Mode.seen == 0


def test_a_parameter_subclass_sees_no_check(in_c):
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


def test_an_odd_optimizer_raises_nothing(in_c):
    in_c.optimizer.param_groups[0]["params"] = (nn.Parameter(torch.ones(2)),)
    assert in_c.before() == "begin"
    in_c.optimizer.param_groups = None
    assert in_c.before() == "begin"


@needs_native
def test_a_counter_and_its_owner_are_collected():
    class Owner:
        def begin(self, *_):
            pass

    owner = Owner()
    owner.counter = native_module().StepCounter(0, Clock(), lambda: 0, ())
    owner.counter.on_begin = owner.begin
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
