"""The hub's process, apart from the messages: where it may run."""

import os
import sys

import pytest

from gradscope.transport import hub_address
from support import fork_server, hubs

PROGRAM = """
import os
from gradscope.transport import ensure_hub
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ensure_hub(timeout_s=60)
"""


@pytest.mark.processes
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors, and a system that binds processes to processors",
)
@pytest.mark.usefixtures("places", "ended_hubs")
def test_a_hub_may_run_on_all_processors_although_its_training_is_bound_to_one():
    fork_server.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
    assert os.sched_getaffinity(hubs.pid_of_hub(hub_address())) == os.sched_getaffinity(0)
