"""A line for the user on stderr: one write, and no exception."""

import os
import subprocess
import sys

import pytest

TWO_LINES = """
from gradscope.notice import print_notice
print_notice("gradscope: one")
print_notice("gradscope: two")
"""


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="a pipe of packets exists only on Linux")
@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_line_is_one_write_so_lines_of_several_ranks_do_not_mix(options):
    receiving, sending = os.pipe2(os.O_DIRECT)  # each read returns what one write wrote
    with os.fdopen(receiving, "rb", buffering=0) as pipe:
        subprocess.run([sys.executable, *options, "-c", TWO_LINES], stderr=sending, check=True)
        os.close(sending)
        assert [pipe.read(100) for _ in range(3)] == [b"gradscope: one\n", b"gradscope: two\n", b""]


@pytest.mark.processes
@pytest.mark.parametrize(
    "stderr",
    [
        "sys.stderr = None",
        "sys.stderr.close()",
        "import os; ends = os.pipe(); os.dup2(ends[1], 2); os.close(ends[0]); os.close(ends[1])",
    ],
    ids=["none", "closed", "broken"],
)
def test_a_stderr_that_cannot_be_written_raises_nothing_and_stdout_gets_nothing(stderr):
    script = f"import sys\n{stderr}\n{TWO_LINES}\nprint('trained')"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.stdout == b"trained\n"
    assert ended.returncode == 0
