"""One message of each type, with every field given, and the bytes that it must have."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gradscope import protocol
from gradscope.columns import Block
from gradscope.errors import ProtocolError
from gradscope.findings import Checked, Finding, NotChecked
from gradscope.protocol.bodies import pack_block


def _block() -> Block:
    """The block that README.md draws."""
    return Block(
        kinds=("out", "grad"),
        layer=np.array([0, 1, 1], np.uint32),
        kind=np.array([0, 0, 1], np.uint32),
        flags=np.zeros(3, np.uint8),
        values={
            "calls": np.array([1, 1, 2], np.uint64),
            "count": np.array([4, 300, 300], np.uint64),
            "nan": np.zeros(3, np.uint64),
            "posinf": np.zeros(3, np.uint64),
            "neginf": np.zeros(3, np.uint64),
            "sum": np.array([1.0, -2.5, 0.1]),
            "sumsq": np.array([4.0, 1e300, 0.0]),
            "min": np.array([-1.0, -0.5, np.inf]),
            "max": np.array([1.0, 0.5, -np.inf]),
        },
    )


def _step() -> protocol.Step:
    columns, zero, body = pack_block(_block())
    return protocol.Step(
        run="r",
        rank=1,
        seq=7,
        step=40,
        time_s=1.5,
        manifest_revision=2,
        kinds=("out", "grad"),
        rows=3,
        columns=columns,
        zero=zero,
        layers="focus",
        step_time_s=0.25,
        facts=protocol.StepFacts(
            start_step=39,
            settings={"threads": "1"},
            hyperparameters={"lr": 0.5},
            eval_layers=(1,),
            optimizer_state=0,
            digests={"random.torch": bytes(range(8))},
        ),
        every=4,
        cost=0.02,
        dropped=3,
        ranks=(0, 1),
        body=body,
    )


_RULE = protocol.RuleSetting("exploding", "clip", (100.0,), 3, ("fc*",))
_SCHEDULE = protocol.Schedule(2, 90, 3, protocol.Ramp("max_norm", 1.0, 2.5, 40, "dann"), "norm > 10")
_ARGUMENTS = (
    protocol.ArgumentInfo("max_norm", "h", "number", 1.0, 0.0, 9.5),
    protocol.ArgumentInfo("per", "h", "choice", chosen="all", options=("layer", "all")),
)


def _manifest() -> protocol.Manifest:
    weight = protocol.Parameter("weight", (3, 2), "float32", is_trainable=True)
    layers = (protocol.Layer("", "Net", is_watched=False), protocol.Layer("fc", "Linear", (weight,)))
    return protocol.Manifest(
        run="r",
        rank=1,
        revision=2,
        model="Net",
        device="cpu",
        measured_by="native avx2",
        layer_count=2,
        actions=(protocol.ActionInfo("clip", "h", "gradient", ("output",), _ARGUMENTS, is_own=True),),
        body=protocol.pack_layers(layers),
    )


MESSAGES: dict[str, protocol.Message] = {
    "hello": protocol.Hello(
        role="agent",
        peer="p",
        protocol=1,
        version="0.1.0",
        want="control",
        run="r",
        rank=1,
        world_size=2,
        pid=99,
        host="h",
        user="u",
        script="s.py",
        started_s=1.5,
        record="/r",
    ),
    "welcome": protocol.Welcome(epoch="e", role="agent", protocol=1, version="0.1.0", hub_pid=98),
    "who": protocol.Who(epoch="e"),
    "refusal": protocol.Refusal(code="version", reason="too old"),
    "environment": protocol.Environment(
        run="r",
        rank=1,
        host="h",
        system="Linux",
        versions={"torch": "2"},
        devices=("cpu",),
        command=("s.py",),
        script="/s.py",
        directory="/",
        variables={"RANK": "1"},
        settings={"num_threads": "4"},
    ),
    "manifest": _manifest(),
    "step": _step(),
    "memory": protocol.Memory(
        run="r",
        rank=1,
        step=40,
        time_s=1.5,
        manifest_revision=2,
        rows=2,
        columns=(("saved", "u2"), ("param", "u1")),
        zero=("buffer",),
        balance={"saved": 300, "total": 400},
        machine={"host_resident": 400},
        notes=("n",),
        body=bytes.fromhex("00002c011840"),
    ),
    "times": protocol.Times(
        run="r",
        rank=1,
        step=40,
        time_s=1.5,
        manifest_revision=2,
        rows=2,
        columns=(("forward", "f4"), ("calls", "u1")),
        zero=("backward",),
        phases_s={"forward": 0.5},
        clock="device",
        is_observed=True,
        notes=("n",),
        body=bytes.fromhex("0000003f0000803e0102"),
    ),
    "scalars": protocol.Scalars(
        run="r", rank=1, steps=(8, 9), times_s=(1.5, 2.5), values={"loss": (0.5, None)}
    ),
    "ranks": protocol.RankStates(
        run="r",
        time_s=1.5,
        count=2,
        ranks=(
            protocol.RankState(
                rank=1,
                is_live=False,
                step=9,
                step_s=0.25,
                before_backward_s=0.125,
                still_s=6.5,
                place="t.py:1 in f",
                layer="fc",
                norms={"out": 2.5},
                nonfinite=3,
                differs_at="fc out",
                differs_by=4.0,
            ),
        ),
        compared_step=8,
    ),
    "event": protocol.Event(
        run="r",
        rank=1,
        step=9,
        time_s=1.5,
        level="warning",
        code="nonfinite",
        text="NaN",
        alert=protocol.AlertInfo("spike", "fc", "param_grad", 12.5, 1.5, 7, "clip"),
        finding=Finding(
            code="gradient-spike",
            severity="warning",
            message="too large",
            cause="a batch",
            fix="clip",
            found_step=9,
            since_step=7,
            layers=("fc",),
            where="train.py:12",
            place="backward",
            confidence="inferred",
            evidence={"value": 12.5, "kind": "param_grad"},
            action="clip",
        ),
        checked=Checked(
            steps=40, observed=22, first=20, every=10, not_checked=(NotChecked("a", "b", "c"),)
        ),
        change=protocol.ChangeInfo("set", "i", "clip", 9, "u", "train.py:12"),
    ),
    "interventions": protocol.Interventions(
        run="r",
        rank=1,
        revision=3,
        step=9,
        entries=(
            protocol.InterventionState(
                "i",
                "clip",
                {"max_norm": 1.0},
                ("fc",),
                "output",
                "u",
                9,
                "never",
                {"per": "layer"},
                _SCHEDULE,
            ),
        ),
        pause=protocol.PauseState(9, 59.5, "u", "step == 9"),
        breakpoints=(protocol.BreakpointState("break-1", "step == 9", "u", 1),),
        rules=(protocol.RuleState("rule-1", _RULE, "u", "for 60 s", 2),),
    ),
    "sub": protocol.Subscribe(
        run="r", max_rate_hz=2.5, backfill=False, number=3, is_merged=True, rank=1
    ),
    "credit": protocol.Credit(count=16),
    "skipped": protocol.Skipped(run="r", rank=1, count=5, step=9),
    "backfill": protocol.Backfill(run="r", state="begin", count=12, number=3),
    "runs": protocol.Runs(
        runs=(
            protocol.RunInfo(
                "r",
                1,
                2,
                "h",
                99,
                "u",
                "s.py",
                1.5,
                is_live=True,
                step=9,
                last_message_s=2.5,
                recording="/r",
                counters={"sent": 1},
                reason="done",
                has_failed=True,
            ),
        ),
        counters={"garbage": 2},
    ),
    "cmd": protocol.Command(
        id=bytes(range(16)),
        run="r",
        peer="p",
        action="install",
        intervention="clip",
        arguments={"max_norm": 1.0},
        layers=("fc*",),
        site="output",
        target="t",
        set_by="u",
        expect_revision=3,
        end_steps=10,
        end_s=60.0,
        is_kept=True,
        choices={"per": "layer"},
        schedule=_SCHEDULE,
        lease_s=30.0,
        condition="loss > 10",
        what="gradient",
        rule=_RULE,
    ),
    "ack": protocol.Ack(
        command=bytes(range(16)), run="r", is_done=True, step=9, id="i", layers=("fc",), reason="no"
    ),
    "captured": protocol.Captured(
        command=bytes(range(16)),
        run="r",
        rank=1,
        step=9,
        layer="fc",
        what="gradient",
        name="0",
        index=1,
        count=2,
        dtype="float16",
        shape=(2,),
        full_shape=(3,),
        note="n",
        body=bytes.fromhex("003c00c0"),
    ),
    "hb": protocol.Heartbeat(
        step=9,
        still_s=6.5,
        place="t.py:1 in f",
        layer="fc",
        peers=("p",),
        controllers=("p",),
        counters={"sent": 300},
    ),
    "bye": protocol.Bye(reason="done", has_failed=True),
}


def _golden() -> dict[str, list[bytes]]:
    lines = (Path(__file__).parent / "golden.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: [bytes.fromhex(part) for part in parts] for name, *parts in rows}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Call a test that takes `message` and `golden` once for each type of message."""
    if {"message", "golden"} & set(metafunc.fixturenames):
        golden = _golden()
        cases = [(message, golden[name]) for name, message in MESSAGES.items()]
        metafunc.parametrize(("message", "golden"), cases, ids=list(MESSAGES))


@pytest.fixture
def block() -> Block:
    return _block()


@pytest.fixture
def step() -> protocol.Step:
    return _step()


@pytest.fixture
def manifest() -> protocol.Manifest:
    return _manifest()


@pytest.fixture
def all_messages() -> dict[str, protocol.Message]:
    return MESSAGES


@pytest.fixture
def all_golden() -> dict[str, list[bytes]]:
    return _golden()


@pytest.fixture
def tags() -> dict[str, type]:
    """Every message type of the protocol, by its tag."""
    union = msgspec.inspect.type_info(protocol.Message)
    assert isinstance(union, msgspec.inspect.UnionType)
    return {t.tag: t.cls for t in union.types if isinstance(t, msgspec.inspect.StructType)}


@pytest.fixture
def refused() -> Callable[[Sequence[bytes]], str]:
    """Decode parts that must be refused, and return the words of the refusal."""

    def words(parts: Sequence[bytes]) -> str:
        with pytest.raises(ProtocolError) as caught:
            protocol.decode(parts)
        assert type(caught.value) is ProtocolError
        return str(caught.value)

    return words
