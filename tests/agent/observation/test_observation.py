"""Observing: the numbers of a step against plain PyTorch, and nothing changed, nothing left."""

import copy
import gc
import io
import itertools
import pickle
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.columns import Flags
from gradscope.errors import NotMeasuredError, UnknownLayerError, UsageError
from support.models import batches, make_normalized_model, train


def snapshot(model, losses):
    gradients = [p.grad.clone() for p in model.parameters()]
    states = [v.clone() for v in model.state_dict().values()]
    return [*losses, *gradients, *states, torch.get_rng_state()]


def hooks_of_torch():
    return {
        "forward": len(torch_module._global_forward_hooks),
        "pre": len(torch_module._global_forward_pre_hooks),
        "backward": len(torch_module._global_backward_hooks),
        "step pre": len(torch_optimizer._global_optimizer_pre_hooks),
        "step post": len(torch_optimizer._global_optimizer_post_hooks),
    }


@pytest.mark.parametrize("detail", ["core", "full"])
def test_training_is_bitwise_the_same_and_nothing_is_left(detail):
    results, before = [], hooks_of_torch()
    for is_attached in (False, True):
        model = make_normalized_model()
        keys = [set(m.__dict__) for m in model.modules()]
        optimizer = torch.optim.AdamW(model.parameters())
        losses = []
        scope = None
        if is_attached:
            scope = gradscope.attach(model, every=1, hub=None, detail=detail, quiet=True)
        train(model, optimizer, batches(6), lambda loss, losses=losses: losses.append(loss.detach()))
        if scope is not None:
            assert len(scope.latest()) == 5
            assert scope.faults == {}
            scope.detach()
        assert [set(m.__dict__) for m in model.modules()] == keys
        results.append(snapshot(model, losses))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert hooks_of_torch() == before


def test_the_random_states_of_numpy_and_python_do_not_change():
    states = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - the global one is meant
    model = make_normalized_model()
    with gradscope.attach(model, every=1, hub=None, quiet=True):
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(3))
    assert np.array_equal(states[0], np.random.get_state()[1])  # noqa: NPY002 - as above
    assert random.getstate() == states[1]


class Recorder:
    """Plain hooks and plain arithmetic: the reference, without any of gradscope."""

    def __init__(self, model):
        self.tensors = {}
        for name, module in model.named_modules():
            if name:
                module.register_forward_hook(lambda m, a, out, name=name: self.keep(name, out))

    def keep(self, name, out):
        self.tensors[name, "out"] = out.detach().double().clone().numpy()
        out.register_hook(lambda g: self.tensors.update({(name, "grad"): g.double().clone().numpy()}))


def test_every_kind_equals_a_reference_computed_by_plain_hooks():
    reference_model = make_normalized_model()
    reference = Recorder(reference_model)
    optimizer = torch.optim.SGD(reference_model.parameters(), lr=0.1, momentum=0.9)
    (batch,) = batches(1)
    reference_model(batch).square().mean().backward()
    old = {n: p.detach().clone() for n, p in reference_model.named_parameters()}
    optimizer.step()
    for name, p in reference_model.named_parameters():
        layer, parameter = name.rsplit(".", 1)
        reference.tensors[layer, f"param.{parameter}"] = old[name].double().numpy()
        reference.tensors[layer, f"param_grad.{parameter}"] = p.grad.double().numpy()
        reference.tensors[layer, f"update.{parameter}"] = (
            p.detach().double() - old[name].double()
        ).numpy()

    model = make_normalized_model()
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), [batch])
        table = scope.latest()
    assert table.step == 0
    for (layer, kind), x in reference.tensors.items():
        stats = table[layer][kind]
        assert (stats.count, stats.min, stats.max) == (x.size, x.min(), x.max()), (layer, kind)
        assert stats.mean == pytest.approx(x.mean(), rel=1e-9, abs=1e-12)
        assert stats.std == pytest.approx(x.std(), rel=1e-7, abs=1e-12)
        assert stats.norm == pytest.approx(np.linalg.norm(x), rel=1e-12)
    both = np.concatenate(
        [reference.tensors["0", f"param_grad.{p}"].ravel() for p in ("weight", "bias")]
    )
    assert table["0"]["param_grad"].norm == pytest.approx(np.linalg.norm(both), rel=1e-12)


def test_gradient_accumulation_is_one_step_with_its_calls_counted():
    model = make_normalized_model().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        for batch in batches(3):
            model(batch).mean().backward()
        optimizer.step()
        stats = scope.latest()["4"]
    assert (stats["out"].calls, stats["grad"].calls, stats["param_grad.weight"].calls) == (3, 3, 1)
    assert stats["out"].count == 3 * 5 * 3


def test_evaluation_between_steps_is_not_part_of_a_step():
    model = make_normalized_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        with torch.no_grad():
            model(torch.randn(1000, 6))
        train(model, optimizer, batches(1))
        assert scope.latest()["0"]["out"].count == 5 * 8


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputation_under_checkpointing_is_not_counted_twice(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=use_reentrant)

    model = nn.Sequential(nn.Linear(6, 6), Checkpointed())
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(1))
        stats = scope.latest()["1.inner"]
    assert stats["out"].calls == 1
    assert stats["out"].count == 30


@pytest.mark.parametrize("options", [{"every": 3}, {"every": 1}, {}, {"budget": 0.5}])
def test_each_observed_step_says_how_many_steps_ago_the_previous_one_was(options):
    model = make_normalized_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tables = {}
    with gradscope.attach(model, hub=None, quiet=True, **options) as scope:
        for _ in range(60):
            train(model, optimizer, batches(1))
            tables[scope.latest().step] = scope.latest().every
            if scope.step == 30:
                scope._run.sampler.request_steps(3)
    steps = sorted(tables)
    assert len(steps) >= 3
    assert [tables[step] for step in steps[1:]] == [
        after - before for before, after in itertools.pairwise(steps)
    ]


def checkpoint_again(inner, x):
    return checkpoint(inner, x, use_reentrant=False)


def own_saved_tensor_hooks(inner, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        return inner(x)


def save_on_cpu(inner, x):
    with torch.autograd.graph.save_on_cpu():
        return inner(x)


@pytest.mark.parametrize("wrap", [checkpoint_again, save_on_cpu, own_saved_tensor_hooks])
def test_saved_tensor_hooks_inside_a_checkpoint_change_no_statistics(wrap):
    def measured(outer):
        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

            def forward(self, x):
                return outer(self, x)

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), Outer())
        with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(1))
            table = scope.latest()
            return {(layer, kind): table[layer][kind] for layer in table for kind in table[layer]}

    def forward(module, x):
        return module.last(wrap(module.inner, x.sin()).tanh())

    def recomputed(module, x):
        return checkpoint(lambda y: forward(module, y), x, use_reentrant=False)

    assert measured(recomputed) == measured(forward)


def test_steps_count_from_start_step_and_with_mark_step_without_an_optimizer():
    model = nn.Linear(3, 2)
    with gradscope.attach(model, every=2, hub=None, start_step=40, quiet=True) as scope:
        for expected in (40, 41, 42):
            assert scope.step == expected
            model(torch.ones(1, 3)).sum().backward()
            scope.mark_step()
        assert scope.latest().step == 42
        assert scope.latest()[""]["param_grad.bias"].sum == 2.0 * 3


def test_an_optimizer_of_another_model_ends_no_step():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        train(other, torch.optim.SGD(other.parameters(), lr=0.1), [torch.ones(1, 2)])
        assert scope.step == 0
        with pytest.raises(NotMeasuredError, match="no step has been observed yet"):
            scope.latest()


def test_the_gradient_of_an_unused_output_is_not_measured():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    model = Two()
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), [torch.ones(1, 2)])
        rows = scope.latest()["unused"]
    assert rows["out"].is_measured
    assert rows["grad"].flags == Flags.NOT_MEASURED
    assert "param_grad" not in rows


def test_a_model_without_gradients_runs_unchanged():
    model = nn.Linear(2, 2).requires_grad_(False)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        model(torch.ones(1, 2))
        scope.mark_step()
        assert set(scope.latest()[""]) == {"out", "param", "param.weight", "param.bias"}
        assert scope.faults == {}


def test_copies_pickles_and_state_dicts_of_an_attached_model_carry_nothing():
    model = make_normalized_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        scope.reverse("4")
        train(model, optimizer, batches(2))
        twin = copy.deepcopy(model)
        assert b"gradscope" not in pickle.dumps(model)
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        assert b"gradscope" not in buffer.getvalue()
        twin(batches(1)[0]).mean().backward()
        assert scope.step == 2
    assert all(not m._forward_hooks for m in twin.modules())


def test_an_exception_in_the_model_propagates_unchanged_and_the_next_step_is_observed():
    class Sometimes(nn.Module):
        fails = True

        def forward(self, x):
            if self.fails:
                raise KeyError("mine")
            return x * 1

    model = nn.Sequential(nn.Linear(6, 6), Sometimes())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        with pytest.raises(KeyError, match="mine"):
            train(model, optimizer, batches(1))
        Sometimes.fails = False
        train(model, optimizer, batches(1))
        assert scope.latest()["1"]["grad"].is_measured
        assert scope.faults == {}


def test_an_error_inside_gradscope_switches_observing_off_and_training_continues(monkeypatch, caplog):
    from gradscope.observe import row_buffer as row_buffer_module

    def fail(*_args, **_kwargs):
        raise RuntimeError("ours")

    model = make_normalized_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        monkeypatch.setattr(row_buffer_module.RowBuffer, "add", fail)
        train(model, optimizer, batches(3))
        assert scope.step == 3
        assert scope.faults == {"observing activations": 1}
    assert "RuntimeError: ours" in caplog.text
    assert "Training continues" in caplog.text


def test_a_scope_ends_when_its_model_is_deleted():
    model = make_normalized_model()
    gone = weakref.ref(model)
    before = hooks_of_torch()
    scope = gradscope.attach(model, every=1, hub=None, quiet=True)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(2))
    assert gradscope.scopes() == [scope]
    del model
    gc.collect()
    assert gone() is None
    assert scope.is_detached
    assert gradscope.scopes() == []
    assert hooks_of_torch() | {"forward": 0} == before | {"forward": 0}


def test_attaching_twice_is_rejected_unless_replace_is_set():
    model = make_normalized_model()
    first = gradscope.attach(model, name="first", hub=None, quiet=True)
    with pytest.raises(UsageError, match="attached already, as run 'first'"):
        gradscope.attach(model, hub=None, quiet=True)
    second = gradscope.attach(model, name="second", hub=None, replace=True, quiet=True)
    assert first.is_detached
    assert gradscope.scopes() == [second]
    second.detach()
    second.detach()


def test_with_gradscope_0_the_scope_is_inert(monkeypatch):
    monkeypatch.setenv("GRADSCOPE", "0")
    before = hooks_of_torch()
    model = make_normalized_model()
    with gradscope.attach(model) as scope:
        assert hooks_of_torch() == before
        scope.log(loss=1.0)
        scope.reverse("0")
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(1))
        assert scope.step == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": [1]}, UsageError, "takes an nn.Module, got list"),
        ({"optimizer": "adam"}, UsageError, "takes a torch.optim.Optimizer, got str"),
        ({"detail": "most"}, UsageError, "detail must be one of core, full"),
        ({"start_step": -1}, UsageError, "start_step must be"),
        ({"layers": "blocks.9"}, UnknownLayerError, "no layer matches 'blocks.9'"),
        ({"every": 0}, UsageError, "every must be"),
        ({"name": "a/b"}, UsageError, "without slashes"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, error, words):
    given = {"model": make_normalized_model(), "hub": None} | arguments
    with pytest.raises(error, match=words):
        gradscope.attach(given.pop("model"), **given)
    assert gradscope.scopes() == []


def test_only_numbers_can_be_logged():
    with gradscope.attach(make_normalized_model(), hub=None, quiet=True) as scope:
        scope.log(loss=torch.tensor([2.0]), lr=1e-3, seen=np.float32(3))
        with pytest.raises(UsageError, match=r"log\(loss=…\) takes a number.*shape \(2,\)"):
            scope.log(loss=torch.ones(2))
        with pytest.raises(UsageError, match="got str"):
            scope.log(loss="3")


def test_an_output_without_a_gradient_among_several_does_no_harm():
    class Split(nn.Module):
        def forward(self, x):
            return x.split(2, -1)

    model = nn.Sequential(nn.Linear(4, 4), Split())
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        first, _ = model(torch.ones(1, 4))
        first.sum().backward()
        scope.mark_step()
        rows = scope.latest()["1"]
        assert scope.faults == {}
    assert rows["grad.0"].sum == 2.0
    assert not rows["grad.1"].is_measured


def test_a_container_with_parameters_of_its_own_shows_them():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    model.extra = nn.ParameterList([nn.Parameter(torch.ones(2))])
    model.forward = lambda x: model[0](x) * model.extra[0]
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        model(torch.ones(1, 3)).sum().backward()
        scope.mark_step()
        table = scope.latest()
    del model.forward
    assert table["extra"]["param.0"].sum == 2.0
    assert {"param_grad.original0", "param_grad.original1"} <= set(table["0.parametrizations.weight"])


def test_a_layer_called_inside_and_outside_of_a_checkpoint_is_counted_once_for_each_call():
    class Twice(nn.Module):
        def __init__(self, use_reentrant):
            super().__init__()
            self.layer, self.use_reentrant = nn.Linear(4, 4), use_reentrant

        def forward(self, x):
            return checkpoint(self.layer, self.layer(x), use_reentrant=self.use_reentrant)

    for use_reentrant in (True, False):
        model = Twice(use_reentrant)
        with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
            model(torch.ones(2, 4)).sum().backward()
            scope.mark_step()
            rows = scope.latest()["layer"]
        assert (rows["out"].calls, rows["grad"].calls) == (2, 2)


def test_layers_replaced_and_added_while_attached_are_followed():
    model = nn.Sequential(nn.Linear(6, 6))
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(1))
        model[0] = nn.Linear(6, 3)
        model.append(nn.Linear(3, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, optimizer, batches(2))
        table = scope.latest()
        assert scope.step == 3
        assert table["0"]["out"].count == 15
        assert {"out", "grad", "param_grad", "update"} <= set(table["1"])
        scope.reverse("1")
        train(model, optimizer, batches(1))
        assert "grad_arriving" in scope.latest()["1"]


def test_lazy_modules_are_observed_before_and_after_initialization():
    model = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        for _ in range(2):
            model(torch.ones(3, 6)).sum().backward()
            scope.mark_step()
        assert scope.latest()["0"]["param.weight"].count == 30
        assert scope.faults == {}
