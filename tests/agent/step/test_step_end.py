"""A step is one iteration of the script, however many optimizers step in it and whenever they do."""

import math

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

import gradscope
from gradscope.agent.step.plugins import StepPlugin
from support.models import make_model

LR = 0.1


def attached(model, optimizer=None, **options):
    return gradscope.attach(
        model, optimizer, **({"every": 1, "hub": None, "record": False, "quiet": True} | options)
    )


def sgd(*modules, lr=LR):
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=lr)


def norm_of(tensors):
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def gradient_norm(module):
    return norm_of(p.grad for p in module.parameters())


def backward(model, batch=None):
    model.zero_grad()
    model(torch.randn(5, 3) if batch is None else batch).square().mean().backward()


class Tables(StepPlugin):
    """Collects the tables of all observed steps."""

    def __init__(self, scope):
        self.tables = []
        scope._engine.add(self)

    def next_active_step(self, step):
        return None

    def observed(self, step):
        self.tables.append(step.table(0))


@pytest.mark.parametrize("reads", [True, False])
def test_two_optimizers_in_a_row_are_one_step_with_the_rows_of_both(reads):
    model = make_model(3, 4)
    first, second = sgd(model[0]), sgd(model[2])
    scope, expected = attached(model), []
    read = Tables(scope)
    for _ in range(4):
        backward(model)
        expected.append([gradient_norm(model[i]) for i in (0, 2)])
        first.step()
        second.step()
        if reads:
            assert scope.latest().step == scope.step - 1
    assert scope.step == 4
    scope.detach()
    assert [t.step for t in read.tables] == [0, 1, 2, 3]
    for table, norms in zip(read.tables, expected, strict=True):
        for layer, norm in zip(("0", "2"), norms, strict=True):
            assert table[layer]["param_grad"].norm == pytest.approx(norm, rel=1e-5)
            assert table[layer]["update"].norm == pytest.approx(LR * norm, rel=1e-4)
            assert table[layer]["param_grad"].calls == table[layer]["out"].calls * 2  # two parameters


@pytest.mark.parametrize("is_rare_first", [True, False])
@pytest.mark.parametrize("reads", [True, False])
def test_an_optimizer_that_steps_in_every_third_iteration_belongs_to_that_iteration(
    is_rare_first, reads
):
    model = make_model(3, 4)
    usual, rare = sgd(model[0]), sgd(model[2])
    scope, expected = attached(model), []
    read = Tables(scope)
    for i in range(9):
        backward(model)
        both = [rare, usual] if is_rare_first else [usual, rare]
        stepping = both if i % 3 == 2 else [usual]
        expected.append([gradient_norm(model[0])] + ([gradient_norm(model[2])] if i % 3 == 2 else []))
        for optimizer in stepping:
            optimizer.step()
        if reads:
            scope.latest()
    scope.detach()
    assert len(read.tables) == 9
    for table, norms in zip(read.tables, expected, strict=True):
        assert table["0"]["param_grad"].norm == pytest.approx(norms[0], rel=1e-5)
        assert ("param_grad" in table["2"]) == (len(norms) == 2)
        if len(norms) == 2:
            assert table["2"]["param_grad"].norm == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize("is_one", [True, False], ids=["one optimizer", "one for each parameter"])
def test_optimizers_that_step_during_backward_are_one_step(is_one):
    model = make_model(3, 4)
    whole = sgd(model)
    optimizers = {p: torch.optim.SGD([p], lr=LR) for p in model.parameters()}
    norms = {}

    def step(parameter):
        norms[parameter] = float(parameter.grad.norm())
        (whole if is_one else optimizers[parameter]).step()
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    with attached(model) as scope:
        for i in range(4):
            model(torch.randn(5, 3)).square().mean().backward()
            table = scope.latest()
            assert (table.step, scope.step) == (i, i + 1)
            for name, parameter in model.named_parameters():
                layer, own = name.split(".")
                rows = table[layer]
                assert rows[f"param_grad.{own}"].norm == pytest.approx(norms[parameter], rel=1e-5)
                assert rows[f"update.{own}"].norm == pytest.approx(LR * norms[parameter], rel=1e-4)
                assert rows[f"param.{own}"].calls == rows["out"].calls == 1
        assert scope.faults == {}


def test_an_intervention_at_params_changes_the_gradients_of_both_optimizers_in_the_same_iteration():
    def train(is_attached):
        model = make_model(3, 4)
        first, second = sgd(model[0]), sgd(model[2])
        scope = attached(model) if is_attached else None
        for i in range(5):
            backward(model, torch.full((5, 3), i + 1.0))
            if scope is not None and i == 1:
                scope.reverse("*", site="params", for_steps=2)  # pending until the next step
            if scope is None and i in (2, 3):
                for p in model.parameters():
                    p.grad.neg_()
            first.step()
            second.step()
        if scope is not None:
            scope.detach()
        return [p.detach() for p in model.parameters()]

    assert all(map(torch.equal, train(True), train(False)))


def test_each_optimizer_after_a_forward_of_its_own_ends_a_step():
    model = nn.ModuleDict({"g": make_model(3, 4), "d": nn.Linear(2, 1)})
    d, g = sgd(model["d"]), sgd(model["g"])
    with attached(model) as scope:
        read = Tables(scope)
        for _ in range(3):
            model.zero_grad()
            model["d"](model["g"](torch.randn(4, 3)).detach()).mean().backward()
            d.step()
            with torch.no_grad():
                model["g"](torch.randn(4, 3))  # an evaluation ends no step
            model.zero_grad()
            model["d"](model["g"](torch.randn(4, 3))).mean().backward()
            g.step()
            with torch.inference_mode():
                assert scope.step % 2 == 0
        assert scope.step == 6
        assert scope.faults == {}
    for table in read.tables:
        assert ("update" in table["d"]) == (table.step % 2 == 0)
        assert ("update" in table["g.0"]) == (table.step % 2 == 1)
        assert table["d"]["out"].calls == 1


@pytest.mark.parametrize(
    ("kind", "per_iteration"),
    [("two in a row", 1), ("of some parameters", 1), ("a forward between", 2)],
)
def test_idle_steps_are_counted_by_the_same_rule(kind, per_iteration):
    model = make_model(3, 4)
    first, second = sgd(model[0], lr=1e-3), sgd(model[2], lr=1e-3)
    with attached(model, every=50) as scope:
        for _ in range(300):
            backward(model)
            first.step()
            if kind == "a forward between":
                backward(model)
            if kind != "of some parameters":
                (model[2].weight.sum() * 2).detach_()  # an operation of the script between the two
                second.step()
        assert scope.step == 300 * per_iteration
        table = scope.latest()
        assert table.step % 50 == 0
        assert ("update" in table["2"]) == (kind == "two in a row")


def test_a_closure_with_forwards_belongs_to_the_step_of_the_optimizer_before_it():
    model = make_model(3, 4)
    first, second = sgd(model[0]), torch.optim.LBFGS(model[2].parameters(), max_iter=3)
    batch = torch.randn(5, 3)

    def closure():
        second.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    with attached(model) as scope:
        for _ in range(3):
            backward(model, batch)
            first.step()
            second.step(closure)
        assert scope.step == 3
        assert "update" in scope.latest()["0"]
        assert "update" in scope.latest()["2"]


def test_a_named_optimizer_ends_a_step_whatever_it_holds():
    model = nn.Linear(3, 2).bfloat16()
    copies = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(copies, lr=LR)
    with attached(model, optimizer) as scope:
        for i in range(3):
            backward(model, torch.randn(5, 3, dtype=torch.bfloat16))
            for copy, p in zip(copies, model.parameters(), strict=True):
                copy.grad = p.grad.float()
            expected = gradient_norm(model)
            optimizer.step()
            assert scope.latest().step == i
            assert scope.latest()[""]["param_grad"].norm == pytest.approx(expected, rel=1e-5)
            assert "update" not in scope.latest()[""]  # the script copies the values later
            with torch.no_grad():
                for copy, p in zip(copies, model.parameters(), strict=True):
                    p.copy_(copy)


def test_an_optimizer_of_an_input_ends_a_step_if_it_is_named():
    model = make_model(3, 4).requires_grad_(False)
    image = torch.randn(5, 3, requires_grad=True)
    optimizer = torch.optim.Adam([image])
    with attached(model, optimizer) as scope:
        for _ in range(3):
            optimizer.zero_grad()
            model(image).square().mean().backward()
            optimizer.step()
        assert scope.step == 3
        assert scope.latest()["2"]["grad"].is_measured


def test_a_named_wrapper_that_shares_the_groups_of_the_optimizer_is_that_optimizer():
    model = make_model(3, 4)
    inner = sgd(model[0])

    class Wrapper(torch.optim.Optimizer):
        def __init__(self):  # calls no super().__init__: no hook is called for it
            self.param_groups = inner.param_groups

        def step(self):
            inner.step()

    wrapper = Wrapper()
    with attached(model, wrapper) as scope:
        for _ in range(3):
            backward(model)
            wrapper.step()
        assert scope.step == 3


def test_a_model_that_calls_no_module_ends_a_step_with_each_repeated_optimizer():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    model = Functional()
    optimizer = torch.optim.SGD([model.a], lr=LR)
    with attached(model) as scope:
        for _ in range(4):
            optimizer.zero_grad()
            (model.a * model.b).sum().backward()
            optimizer.step()
        assert scope.step == 4


def test_mark_step_ends_the_step_of_an_optimizer_of_some_parameters_once():
    model = make_model(3, 4)
    optimizer = sgd(model[0])
    with attached(model) as scope:
        for i in range(3):
            backward(model)
            optimizer.step()
            scope.mark_step()
            assert scope._engine.step == i + 1


def test_detach_reports_a_step_that_waits_for_a_forward_and_leaves_no_hook():
    model = make_model(3, 4)
    optimizer = sgd(model[0])
    scope = attached(model)
    backward(model)
    optimizer.step()
    assert torch_module._global_forward_pre_hooks
    scope.detach()
    assert scope.latest().step == 0
    assert not torch_module._global_forward_pre_hooks
