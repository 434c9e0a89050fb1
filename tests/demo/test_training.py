"""The script that the demo trains with."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gradscope.demo.model import GPT, Config
from gradscope.demo.text import Characters, Windows, load_text
from gradscope.demo.train import train
from support import fork_server


def _train(*options: str, timeout_s: float = 90) -> str:
    ran = fork_server.run(
        [sys.executable, "-W", "error", "-m", "gradscope.demo", "--no-gradscope", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=True,
    )
    return ran.stdout


def test_the_text_is_long_and_decoding_the_tokens_gives_it_back():
    text = load_text()
    characters = Characters(text)
    assert len(text) > 300_000
    assert 60 < len(characters) < 300
    assert characters.decode(characters.encode(text[:5000])) == text[:5000]


def test_the_targets_of_a_window_are_its_inputs_shifted_by_one():
    windows = Windows(torch.arange(10), 4)
    assert len(windows) == 6
    inputs, targets = windows[5]
    assert inputs.tolist() == [5, 6, 7, 8]
    assert targets.tolist() == [6, 7, 8, 9]


def test_the_model_has_the_names_that_the_documents_speak_of():
    names = {name for name, _ in GPT(Config(vocabulary_size=10)).named_modules()}
    assert names >= {
        "token_embedding", "position_embedding", "blocks.0.attention.qkv", "blocks.3.attention.proj",
        "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "blocks.2.mlp_norm", "norm", "head",
    }  # fmt: skip


def test_no_position_depends_on_later_characters():
    torch.manual_seed(0)
    model = GPT(Config(vocabulary_size=10, dropout=0.0))
    tokens = torch.randint(0, 10, (1, 12))
    changed = tokens.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 10
    before, after = model(tokens), model(changed)
    assert before.shape == (1, 12, 10)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_an_untrained_model_has_the_loss_of_a_uniform_guess():
    torch.manual_seed(0)
    model = GPT(Config(vocabulary_size=50))
    tokens = torch.randint(0, 50, (8, 64))
    loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(50), abs=0.2)


def test_generating_continues_from_the_prompt_beyond_the_block():
    torch.manual_seed(0)
    model = GPT(Config(vocabulary_size=10, block_size=8))
    prompt = torch.tensor([[1, 2, 3]])
    generated = model.generate(prompt, 20, torch.Generator().manual_seed(0))
    assert generated.shape == (1, 23)
    assert torch.equal(generated[:, :3], prompt)


@pytest.mark.processes
def test_two_runs_of_one_seed_are_equal_bit_by_bit_and_another_seed_differs(tmp_path):
    kept = []
    for name, seed in [("a", "1"), ("b", "1"), ("c", "2")]:
        file = tmp_path / f"{name}.npz"
        options = ("--steps", "4", "--seed", seed, "--of", "blocks.1.attention.proj")
        _train(*options, "--keep-gradients", str(file))
        with np.load(file) as arrays:
            kept.append({key: arrays[key] for key in arrays.files})
    assert kept[0]["gradient"].shape == (4, 128, 128)
    assert kept[0]["seconds"].shape == (4,)
    assert kept[0]["gradient"].tobytes() == kept[1]["gradient"].tobytes()
    assert kept[0]["loss"].tobytes() == kept[1]["loss"].tobytes()
    assert kept[0]["loss"][0] != kept[2]["loss"][0]


def test_a_training_that_is_ended_early_writes_what_it_kept(tmp_path):
    file = tmp_path / "kept.npz"
    training = fork_server.Popen(
        [sys.executable, "-m", "gradscope.demo", "--no-gradscope", "--keep-gradients", str(file)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert training.stdout is not None
    assert training.stdout.readline().startswith("step      0")
    training.send_signal(signal.SIGTERM)
    training.communicate(timeout=30)
    assert training.returncode == 128 + signal.SIGTERM
    with np.load(file) as arrays:
        assert len(arrays["loss"]) >= 1


@pytest.mark.exhaustive
def test_the_model_learns():
    lines = [line.split() for line in _train("--steps", "101").splitlines() if "steps/s" in line]
    losses = {int(line[1]): float(line[3]) for line in lines}
    assert losses[0] > 4.0
    assert losses[100] < 3.0


def test_the_package_loads_nothing_heavy():
    script = "import sys, gradscope.demo; assert not {'torch', 'numpy', 'zmq'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_the_script_is_a_user_s_own_it_uses_nothing_but_attach_and_log():
    source = Path(train.__code__.co_filename).read_text(encoding="utf-8")
    uses = [line.strip() for line in source.splitlines() if "gradscope." in line or "scope." in line]
    code = [line for line in uses if not line.startswith(("from gradscope.demo", '"""', "parser", "#"))]
    assert [line for line in code if "if options.gradscope" not in line] == [
        "scope = gradscope.attach(model, optimizer, name=options.run_name)",
        "scope.log(loss=loss, lr=schedule.get_last_lr()[0])",
    ]
