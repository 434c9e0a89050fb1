"""Scripts in the styles of public examples: `gradscope run` changes no bit of them, and observes their models."""

import json
import sys
from pathlib import Path

import pytest

from gradscope.launch.start import _NOTHING
from support import fork_server

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
ALL = ["out", "grad", "param", "param_grad", "update"]


@pytest.fixture
def compare(tmp_path):
    """Run a script without and with gradscope; compare output and exit code; return what was observed."""

    def compared(script: str, *arguments: str, preload=()):
        command = [str(SCRIPTS / f"{script}.py"), *arguments]
        report = tmp_path / "report.json"
        options = {"capture_output": True, "text": True, "timeout": 300, "preload": preload}
        bare = fork_server.run([sys.executable, *command], **options)
        observed = fork_server.run(
            [sys.executable, str(HERE / "observed.py"), str(report), *command], **options
        )
        assert bare.returncode == 0, bare.stderr
        assert (observed.returncode, observed.stdout) == (0, bare.stdout), observed.stderr
        answer = json.loads(report.read_text(encoding="utf-8"))
        told = [line for line in observed.stderr.splitlines() if line not in bare.stderr.splitlines()]
        assert all(line.startswith("gradscope: watching ") for line in told), told
        for run in answer["runs"].values():
            assert not run["faults"]
        return answer

    return compared


def kinds_of(run):
    """Return the kinds that were observed in each step."""
    return {int(step): set(kinds) for step, kinds in run["kinds"].items()}


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        (("mnist", "--epochs", "3"), {"mnist-Net": 15}),
        (("char_gpt",), {"char_gpt-GPT": 6}),
        (("dcgan",), {"dcgan-Discriminator": 12, "dcgan-Generator": 12}),
        (("vae",), {"vae-Decoder": 12, "vae-Encoder": 12}),
        (("actor_critic",), {"actor_critic-actor": 12, "actor_critic-critic": 12}),
        (("siamese",), {"siamese-SiameseNetwork": 12}),
        (("sam",), {"sam-model": 12}),
    ],
)
def test_a_script_keeps_its_bits_and_all_its_steps_are_observed_from_the_first(compare, script, steps):
    runs = compare(*script)["runs"]
    assert {name: run["steps"] for name, run in runs.items()} == steps
    for run in runs.values():
        kinds = kinds_of(run)
        assert sorted(kinds) == list(range(run["steps"]))
        assert all(set(ALL) <= each for each in kinds.values())
        assert not run["findings"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["wrapped", "in_place", "step"])
def test_a_model_is_attached_before_it_is_compiled(compare, how):
    (run,) = compare("char_gpt", how)["runs"].values()
    kinds = kinds_of(run)
    assert run["steps"] == 6
    assert all({"out", "grad", "param_grad", "update"} <= kinds[step] for step in range(6))


def test_a_model_whose_optimizer_evaluates_it_in_a_closure_is_attached_in_the_first_evaluation(compare):
    (run,) = compare("lbfgs")["runs"].values()
    kinds = kinds_of(run)
    assert run["steps"] == 6
    assert sorted(kinds) == list(range(6))
    assert all(set(ALL) <= kinds[step] for step in range(1, 6))


def test_a_model_that_is_made_after_another_one_was_trained_is_attached_after_its_first_step(compare):
    runs = compare("distillation")["runs"]
    assert {name: run["steps"] for name, run in runs.items()} == {
        "distillation-Net": 8,
        "distillation-student": 12,
    }
    assert sorted(kinds_of(runs["distillation-Net"])) == list(range(8))
    assert sorted(kinds_of(runs["distillation-student"])) == list(range(1, 12))


def test_a_network_through_which_an_input_is_optimized_is_not_attached(compare):
    assert compare("adversarial") == {"runs": {}, "has_seen_step": True, "has_observed": False}


def test_a_script_without_an_optimizer_keeps_its_bits(compare):
    assert compare("language_model") == {"runs": {}, "has_seen_step": False, "has_observed": False}


def test_what_the_line_at_the_end_advises_observes_updates_without_an_optimizer():
    def run(*options):
        command = [sys.executable, str(SCRIPTS / "language_model.py"), *options]
        return fork_server.run(command, capture_output=True, text=True, timeout=300, check=True)

    watched = run("--watched")
    assert watched.stdout == run().stdout
    kinds = sorted({*ALL, "param_grad_before_clip"} - {"update"})
    assert watched.stderr.splitlines() == [f"{step} {kinds} {{}}" for step in range(12)]
    assert all(
        words in _NOTHING for words in ("gradscope.attach(model)", "scope.mark_step()", "--children")
    )


def test_a_model_in_transformers_trainer_is_attached(compare):
    pytest.importorskip("accelerate")
    (run,) = compare("trainer", preload=["transformers.trainer"])["runs"].values()
    assert run["steps"] == 6
    assert sorted(kinds_of(run)) == list(range(6))


def test_at_most_eight_models_are_observed_and_none_again_that_the_script_has_detached(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, str(HERE / "observed.py"), str(report), str(SCRIPTS / "ensemble.py")]
    done = fork_server.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = json.loads(report.read_text(encoding="utf-8"))["runs"]
    assert done.stderr.count("the script trains 9 models; 8 are observed") == 1
    steps = sorted(run["steps"] for run in runs.values())
    assert len(runs) <= 9
    assert steps[0] == 3
    assert steps[-1] == 6
