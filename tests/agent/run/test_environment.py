"""The environment that a run reports, and the command line without its secrets."""

import sys

import pytest
import torch

from gradscope.agent.run.environment import make_environment, without_secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("train.py --lr 0.1 --name gpt", "train.py --lr 0.1 --name gpt"),
        ("train.py --wandb-key abcd --lr 1", "train.py --wandb-key <hidden> --lr 1"),
        ("train.py --token=abcd", "train.py --token=<hidden>"),
        ("train.py --apiKey abcd", "train.py --apiKey <hidden>"),
        ("train.py trainer.api_key=abcd lr=1", "train.py trainer.api_key=<hidden> lr=1"),
        ("train.py --password 1234", "train.py --password <hidden>"),
        ("train.py --max-tokens 512 --tokenizer gpt2", "train.py --max-tokens 512 --tokenizer gpt2"),
        ("train.py --key-dim 64 --use-auth --lr 1", "train.py --key-dim 64 --use-auth --lr 1"),
        ("train.py hf_abcdefghijklmnop", "train.py <hidden>"),
        ("train.py --x=sk-abcdefghijklmnopqrst", "train.py --x=<hidden>"),
        ("train.py s3://user:pass@host/data", "train.py s3://<hidden>@host/data"),
        ("train.py 0123456789abcdef0123456789abcdef01234567", "train.py <hidden>"),
        (
            "train.py runs/resnet50-imagenet-2024-03-02-with-a-long-name",
            "train.py runs/resnet50-imagenet-2024-03-02-with-a-long-name",
        ),
        ("-u -c import_x", "-u -c <hidden>"),
        ("train.py -c config.yaml", "train.py -c config.yaml"),
    ],
)
def test_only_secrets_are_hidden_from_a_command_line(given, shown):
    assert without_secrets(given.split()) == tuple(shown.split())


def test_a_long_command_line_is_cut():
    shown = without_secrets(["x y" * 1000] * 1000)
    assert len(shown) == 200
    assert {len(argument) for argument in shown} == {300}


def test_the_environment_says_what_torch_and_the_system_say(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--token", "secret"])
    is_initialized = torch.cuda.is_initialized()
    state = torch.get_rng_state()
    environment = make_environment("gpt", 3)
    assert (environment.run, environment.rank) == ("gpt", 3)
    assert environment.versions["torch"] == torch.__version__
    assert environment.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment.variables["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment.command == ("train.py", "--token", "<hidden>")
    assert environment.settings["num_threads"] == str(torch.get_num_threads())
    assert environment.settings["initial_seed"] == str(torch.initial_seed())
    assert environment.settings["deterministic_algorithms"] == "false"
    assert "secret" not in str(environment)
    assert torch.cuda.is_initialized() == is_initialized, "it must not start a device"
    assert torch.equal(torch.get_rng_state(), state)
