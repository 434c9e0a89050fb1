"""The observed steps that are kept for plots."""

import torch

import gradscope
from gradscope.agent.inspection import step_history
from support.models import batches, make_normalized_model, train


def test_a_long_run_keeps_steps_of_its_whole_length_and_the_newest(monkeypatch):
    model = make_normalized_model()
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, optimizer, batches(1))
        size_bytes = scope._latest_steps._history.steps[0].block.nbytes
        monkeypatch.setattr(step_history, "_LIMIT_BYTES", 16 * size_bytes)
        train(model, optimizer, batches(99))
        kept = [table.step for table in scope._latest_steps.tables()]
    assert kept == [*range(0, 100, 8), 99]
