"""The identity of this process: the run's name, which all ranks of a job share, rank, host and user."""

import getpass
import hashlib
import os
import re
import secrets
import socket
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gradscope.agent.run.distributed import rank_and_world_size
from gradscope.names import check_run_name
from gradscope.protocol import Hello

__all__ = ["default_run_name", "make_hello", "run_name"]

_ID_LENGTH = 4
_KIND_LIMIT = 30


_numbers: Counter[str] = Counter()
"""How often each default name was given in this process."""


def run_name(name: str | None, model: nn.Module) -> str:
    """Return `name`, or by default script, class of the model and a short id, as in `train-GPT-3f2a`.

    Further models of the same class get a number: `train-GPT-3f2a-2`. Raises UsageError if `name` cannot
    be used as a file name.
    """
    if name is None:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        return default_run_name(type(model).__name__)
    return check_run_name(name)


def default_run_name(kind: str) -> str:
    """Return script, kind (the class of a model, or its variable) and a short id, as in `train-GPT-3f2a`.

    Further names of the same kind get a number: `train-GPT-3f2a-2`.
    """
    kind = re.sub(r"\W", "", kind)[:_KIND_LIMIT]
    name = f"{_script_name()}-{kind}-{_job_id(os.getpid())[:_ID_LENGTH]}"
    _numbers[name] += 1
    return name if _numbers[name] == 1 else f"{name}-{_numbers[name]}"


def make_hello(run: str, record: str | None) -> Hello:
    """Return the agent's hello. `record`: a path; empty for no recording; None for the default path."""
    rank, world_size = rank_and_world_size()
    return Hello(
        role="agent",
        peer=secrets.token_hex(8),
        run=run,
        rank=rank,
        world_size=world_size,
        pid=os.getpid(),
        host=socket.gethostname(),
        user=_user(),
        script=_script_name(),
        started_s=time.time(),
        record=record,
    )


def _script_name() -> str:
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None) or (sys.argv[0] if sys.argv else "")
    stem = Path(path).stem
    if stem == "__main__":
        stem = Path(path).parent.name
    is_not_a_file = stem in ("", "-c", "<stdin>")
    return "notebook" if stem == "ipykernel_launcher" else "python" if is_not_a_file else stem


@cache
def _job_id(_pid: int) -> str:
    """Return an id that is the same on all ranks of a job; outside a job, one of this process."""
    env = os.environ
    elastic = env.get("TORCHELASTIC_RUN_ID", "none")
    if elastic != "none":
        return _digest(elastic)
    if "SLURM_JOB_ID" in env:
        return _digest(f"{env['SLURM_JOB_ID']}.{env.get('SLURM_STEP_ID', '')}")
    if "MASTER_ADDR" in env and "MASTER_PORT" in env:
        return _digest(f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}")
    return secrets.token_hex(_ID_LENGTH)


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
