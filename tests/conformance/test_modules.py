"""Every module that PyTorch's own test suite has samples for: bare against attached."""

import pytest
import torch

pytest.importorskip(
    "expecttest", reason="PyTorch's own samples need expecttest: pip install expecttest"
)

from cases.library import MODULES, samples_of

pytestmark = pytest.mark.slow

FEW = 3
IN_DOUBLE = ("nn.Linear", "nn.Conv2d", "nn.BatchNorm2d", "nn.LSTM", "nn.GRU", "nn.LayerNorm",
             "nn.MultiheadAttention", "nn.TransformerEncoderLayer", "nn.PReLU")  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_few_samples_of_a_module_train_the_same(name, conforms):
    for _, case in zip(range(FEW), samples_of(name, torch.float32, training=True), strict=False):
        conforms("modules, a few", case)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODULES)
def test_all_samples_of_a_module_train_the_same(name, training, conforms):
    for case in samples_of(name, torch.float32, training=training):
        conforms(f"modules, {'train' if training else 'eval'}", case)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", IN_DOUBLE)
def test_samples_in_double_precision_train_the_same(name, conforms):
    for case in samples_of(name, torch.float64, training=True):
        conforms("modules, float64", case)
