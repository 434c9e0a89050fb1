import math
from collections import Counter

from gradscope.hub.history import Parts
from gradscope.hub.viewer_delivery import ViewerDelivery
from gradscope.protocol import Skipped, Subscribe, decode, encode

STEP = [b"a step"]


class Pipe:
    """Keeps what is sent to it, until it is full."""

    def __init__(self) -> None:
        self.taken: list[Parts] = []
        self.room = 1_000_000

    def __call__(self, parts: Parts) -> bool:
        if len(self.taken) >= self.room:
            return False
        self.taken.append(parts)
        return True


def subscribed(
    pipe: Pipe, *, rate_hz: float = 1.0, past: int = 0
) -> tuple[ViewerDelivery, Counter[str]]:
    counts: Counter[str] = Counter()
    delivery = ViewerDelivery(pipe, counts)
    items = (([b"past %d" % i], True) for i in range(past))
    delivery.subscribe(Subscribe(run="r", max_rate_hz=rate_hz), items)
    return delivery, counts


def test_without_credit_the_newest_step_waits_and_the_others_are_counted() -> None:
    pipe = Pipe()
    delivery, counts = subscribed(pipe)
    for i in range(5):
        delivery.put_step(0, i, [b"step %d" % i])
    assert delivery.flush(0.0) == math.inf
    assert pipe.taken == []
    delivery.add_credit(1)
    delivery.flush(0.0)
    assert pipe.taken == [encode(Skipped(run="r", rank=0, count=4, step=3)), [b"step 4"]]
    assert counts["skipped_steps"] == 4


def test_a_step_waits_until_its_rate_allows_it() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe, rate_hz=4.0)
    delivery.add_credit(10)
    delivery.put_step(0, 0, STEP)
    delivery.flush(100.0)
    delivery.put_step(0, 1, STEP)
    assert delivery.flush(100.1) == 100.25
    assert len(pipe.taken) == 1
    delivery.flush(100.25)
    assert len(pipe.taken) == 2


def test_the_newest_step_that_all_ranks_have_reported_is_sent() -> None:
    pipe = Pipe()
    delivery, counts = subscribed(pipe)
    delivery.add_credit(10)
    for rank, steps in ((0, (3, 4, 5)), (1, (3, 4)), (2, (4, 5))):
        for step in steps:
            delivery.put_step(rank, step, [b"rank %d step %d" % (rank, step)])
    assert delivery.flush(0.0) == 1.0  # steps 5 and 6 wait for the rate
    told = [parts for parts in pipe.taken if parts[0].startswith(b"rank")]
    assert told == [[b"rank 0 step 4"], [b"rank 1 step 4"], [b"rank 2 step 4"]]
    assert counts["skipped_steps"] == 2  # step 3 of ranks 0 and 1


def test_a_silent_rank_is_awaited_for_250_ms_and_then_left_out() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe, rate_hz=100.0)
    delivery.add_credit(10)
    for rank in range(2):
        delivery.put_step(rank, 0, [b"both"])
    delivery.flush(0.0)
    delivery.put_step(0, 1, [b"one alone"])
    assert delivery.flush(10.0) == 10.25
    assert len(pipe.taken) == 2
    delivery.flush(10.25)
    delivery.put_step(0, 2, [b"alone at once"])
    delivery.flush(10.3)
    assert [parts[0] for parts in pipe.taken[2:]] == [b"one alone", b"alone at once"]
    delivery.put_step(0, 3, [b"both again"])
    delivery.put_step(1, 3, [b"both again"])
    delivery.flush(10.5)
    assert [parts[0] for parts in pipe.taken[4:]] == [b"both again"] * 2


def test_past_steps_take_credit_and_are_sent_before_live_ones() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe, past=3)
    delivery.put_step(0, 9, STEP)
    delivery.add_credit(2)
    assert delivery.flush(0.0) == math.inf
    assert pipe.taken == [[b"past 0"], [b"past 1"]]
    delivery.add_credit(2)
    delivery.flush(0.0)
    assert pipe.taken == [[b"past 0"], [b"past 1"], [b"past 2"], STEP]


def test_a_full_socket_is_tried_again_and_nothing_is_lost_or_sent_twice() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe, past=3)
    delivery.add_credit(100)
    for i in range(3):
        delivery.put([b"event %d" % i])
        delivery.put_step(0, i, [b"step %d" % i])
    for room in range(1, 30):
        pipe.room = room
        assert delivery.flush(0.0) in (0.01, math.inf)
    assert [parts[0] for parts in pipe.taken if parts[0].startswith((b"past", b"event", b"step"))] == [
        *(b"past %d" % i for i in range(3)),
        *(b"event %d" % i for i in range(3)),
        b"step 2",
    ]
    assert decode(pipe.taken[-2]) == Skipped(run="r", rank=0, count=2, step=1)


def test_only_the_newest_message_of_each_state_key_waits() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe)
    for i in range(3):
        delivery.put_state("manifest", [b"manifest %d" % i])
    delivery.flush(0.0)
    assert pipe.taken == [[b"manifest 2"]]


def test_the_oldest_events_beyond_2000_are_dropped_and_counted() -> None:
    pipe = Pipe()
    delivery, counts = subscribed(pipe)
    for i in range(2_003):
        delivery.put([b"%d" % i])
    delivery.flush(0.0)
    assert pipe.taken[0] == [b"3"]
    assert len(pipe.taken) == 2_000
    assert counts["dropped_to_viewers"] == 3


def test_another_subscription_clears_the_queues_of_the_former_one() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe, past=3)
    delivery.put([b"an event"])
    delivery.put_step(0, 0, STEP)
    delivery.put_state("runs", [b"the runs"])
    delivery.subscribe(Subscribe(run="other"), iter([([b"other past"], False)]))
    delivery.add_credit(10)
    delivery.flush(0.0)
    assert pipe.taken == [[b"the runs"], [b"other past"]]


def test_focus_steps_are_sent_in_order_and_leave_the_last_credit_to_an_observed_step() -> None:
    pipe = Pipe()
    delivery, counts = subscribed(pipe)
    focus_steps = [[b"focus step %d" % i] for i in range(20)]
    for each in focus_steps:
        delivery.put_focus_step(each)
    delivery.put_step(0, 0, STEP)
    delivery.flush(0.0)
    assert pipe.taken == []
    assert counts["skipped_focus_steps"] == 4
    delivery.add_credit(4)
    delivery.flush(0.0)
    assert pipe.taken == [*focus_steps[4:7], STEP]
    delivery.add_credit(20)
    assert delivery.flush(0.1) == math.inf
    assert pipe.taken[4:] == focus_steps[7:], "the rate does not apply to them"


def test_another_subscription_drops_the_focus_steps_that_wait() -> None:
    pipe = Pipe()
    delivery, _ = subscribed(pipe)
    delivery.put_focus_step([b"a focus step"])
    delivery.subscribe(Subscribe(run="other"), iter(()))
    delivery.add_credit(9)
    delivery.flush(0.0)
    assert pipe.taken == []
