"""The exponent histogram on its whole way: from a tensor to a script, a viewer, and a recording."""

import numpy as np
import torch
from torch import nn

import gradscope
from gradscope.client import connect
from gradscope.columns import Table
from gradscope.errors import RecordingError
from gradscope.protocol import unpack_layers
from gradscope.protocol.bodies import unpack_block
from gradscope.recording import open_recording
from support.waiting import wait_for


def expected(tensor):
    """The 128 bins by NumPy: frexp gives |x| = m 2^e with 0.5 <= m < 1."""
    x = tensor.detach().double().numpy().ravel()
    x = x[x != 0]
    places = np.clip(np.frexp(x)[1] - 1 + 47, 0, 63) + 64 * (x < 0)
    return tuple(np.bincount(places, minlength=128).tolist())


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train(model, optimizer, batch):
    optimizer.zero_grad()
    output = model(batch)
    output.square().sum().backward()
    optimizer.step()
    return output


def begun(path):
    """Return the recording; None while the hub has not written the run into it."""
    try:
        recording = open_recording(path)
        recording.info  # noqa: B018 - raises while there is no run
    except RecordingError:
        return None
    return recording


def test_script_viewer_and_recording_have_the_histogram_of_the_tensors(hub, tmp_path):
    model, optimizer = make()
    path = tmp_path / "run.gradscope"
    with gradscope.attach(model, name="full", detail="full", every=1, record=path, quiet=True) as scope:
        for _ in range(5):
            weight = model[0].weight.detach().clone()
            output = train(model, optimizer, torch.randn(6, 8))
        table = scope.latest()
        changed = model[0].weight.detach().double() - weight.double()
        wait_for(lambda: scope.endpoint)
        with connect(run="full") as client:
            seen = wait_for(lambda: (late := client.latest()).step == table.step and late)
    assert table["2"]["out"].histogram == expected(output)
    assert table["2"]["grad"].histogram == expected(2 * output)
    assert table["0"]["param.weight"].histogram == expected(weight)
    assert table["0"]["param_grad.weight"].histogram == expected(model[0].weight.grad)
    assert table["0"]["update.weight"].histogram == expected(changed)
    assert seen.to_dict() == table.to_dict()
    with wait_for(lambda: begun(path)) as recording:
        wait_for(lambda: recording.info.ended_s)
        names = [layer.name for layer in unpack_layers(recording.manifest())]
        steps = {step.step: Table(step.step, names, unpack_block(step)) for step in recording.steps()}
    assert sorted(steps) == list(range(5))
    assert steps[table.step].to_dict() == table.to_dict()


def test_core_detail_has_no_histogram_and_sends_none(hub):
    model, optimizer = make()
    with gradscope.attach(model, name="core", every=1, quiet=True) as scope:
        train(model, optimizer, torch.randn(6, 8))
        table = scope.latest()
        with connect(run="core") as client:
            seen = client.latest()
    for each in (table, seen):
        assert each["0"]["out"].histogram is None
        assert each["0"]["out"].binades is None
        assert each.to_dict()["0"]["out"]["histogram"] is None


def test_calls_of_a_shared_layer_and_micro_batches_are_counted_together():
    torch.manual_seed(1)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    outputs = []
    with gradscope.attach(model, detail="full", every=1, hub=None, quiet=True) as scope:
        for _ in range(3):
            batch = torch.randn(5, 4)
            model(batch).sum().backward()
            with torch.no_grad():
                outputs += [shared(batch), shared(shared(batch))]
        optimizer.step()
        row = scope.latest()["0"]["out"]
    assert row.calls == 6
    assert row.histogram == expected(torch.cat(outputs))


def test_under_a_loss_scale_the_histogram_describes_the_stored_gradient():
    found = []
    for scale in (1.0, 1024.0):
        model, optimizer = make()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with gradscope.attach(
            model, scaler=scaler, detail="full", every=1, hub=None, quiet=True
        ) as scope:
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(3, 8)).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            found.append(scope.latest()["2"]["grad"])
    plain, scaled = found
    assert plain.norm == scaled.norm
    assert scaled.binades == {exponent + 10: many for exponent, many in plain.binades.items()}
