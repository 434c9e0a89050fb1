from gradscope.hub.history import (
    EVENT_LIMIT,
    READING_LIMIT,
    READING_LIMIT_BYTES,
    SCALARS_LIMIT_BYTES,
    STEP_LIMIT,
    STEP_LIMIT_BYTES,
    RankHistory,
)
from gradscope.protocol import Scalars, decode, encode


def scalars(step: int, name: str = "loss") -> Scalars:
    return Scalars(run="r", rank=0, steps=(step,), times_s=(step / 2,), values={name: (float(step),)})


def test_the_newest_600_steps_stay_in_order() -> None:
    history = RankHistory()
    for i in range(STEP_LIMIT + 50):
        history.add_step([b"head %d" % i])
    kept = [parts[0] for parts in history.steps]
    assert kept == [b"head %d" % i for i in range(50, STEP_LIMIT + 50)]


def test_steps_stay_below_32_megabytes() -> None:
    history = RankHistory()
    for _ in range(100):
        history.add_step([b"h", b"x" * 2**20])
    total = sum(len(part) for parts in history.steps for part in parts)
    assert STEP_LIMIT_BYTES - 2 * 2**20 < total <= STEP_LIMIT_BYTES


def test_the_newest_step_is_kept_whatever_its_size() -> None:
    history = RankHistory()
    history.add_step([b"x" * (STEP_LIMIT_BYTES + 1)])
    assert len(list(history.steps)) == 1


def test_the_newest_200_events_stay() -> None:
    history = RankHistory()
    for i in range(EVENT_LIMIT + 7):
        history.add_event([b"%d" % i])
    assert [parts[0] for parts in history.events] == [b"%d" % i for i in range(7, EVENT_LIMIT + 7)]


def test_merged_scalars_have_the_same_values_in_far_fewer_messages() -> None:
    history = RankHistory()
    for i in range(2_000):
        message = scalars(i)
        history.add_scalars(message, len(encode(message)[0]))
    kept = [decode(parts) for parts in history.past_scalars()]
    assert len(kept) < 10
    assert [s for m in kept for s in m.steps] == list(range(2_000))
    assert [t for m in kept for t in m.times_s] == [i / 2 for i in range(2_000)]
    assert [v for m in kept for v in m.values["loss"]] == [float(i) for i in range(2_000)]


def test_scalars_with_other_names_are_not_merged() -> None:
    history = RankHistory()
    for message in (scalars(0), scalars(1, "accuracy"), scalars(2)):
        history.add_scalars(message, 50)
    kept = [decode(parts) for parts in history.past_scalars()]
    assert kept == [scalars(0), scalars(1, "accuracy"), scalars(2)]


def test_the_oldest_scalars_are_dropped_beyond_4_megabytes() -> None:
    history = RankHistory()
    for i in range(300):
        history.add_scalars(scalars(i, "ab"[i % 2] * 40_000), 40_000)
    kept = history.past_scalars()
    assert SCALARS_LIMIT_BYTES * 0.97 < sum(len(parts[0]) for parts in kept[:-1]) <= SCALARS_LIMIT_BYTES
    assert decode(kept[-1]).steps == (299,)


def test_the_newest_readings_of_memory_and_time_stay_below_their_limits() -> None:
    history = RankHistory()
    for i in range(READING_LIMIT + 9):
        history.add_reading([b"%d" % i])
    assert [int(parts[0]) for parts in history.readings] == list(range(9, READING_LIMIT + 9))
    for _ in range(20):
        history.add_reading([b"h", b"x" * 2**20])
    kept = sum(len(part) for parts in history.readings for part in parts)
    assert READING_LIMIT_BYTES - 2 * 2**20 < kept <= READING_LIMIT_BYTES
