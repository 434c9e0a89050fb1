"""What this process runs with: versions, devices, command line, environment variables, flags of torch.

It is read once, when a model is attached, and starts no process and no device. The hub adds the git commit.
"""

import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import torch

from gradscope._version import __version__
from gradscope.protocol import Environment

__all__ = ["make_environment", "without_secrets"]

HIDDEN: Final = "<hidden>"

_LENGTH_LIMIT: Final = 300
_ARGUMENTS_LIMIT: Final = 200

_VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE", "PYTHONHASHSEED",
    "PYTHONOPTIMIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_CBWR",
    "NCCL_ALGO", "NCCL_PROTO", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "RANK", "LOCAL_RANK", "WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID",
    "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NODELIST", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV", "GRADSCOPE",
)  # fmt: skip
"""The environment variables that are recorded, if they are set. No other one is read."""

_SECRET_WORDS: Final = frozenset(
    {
        "key",
        "apikey",
        "token",
        "secret",
        "password",
        "passwd",
        "pwd",
        "credential",
        "credentials",
        "auth",
    }
)
_PASSWORDS: Final = frozenset({"password", "passwd", "pwd"})
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SECRET_VALUE: Final = re.compile(
    r"\b(?:sk|pk|hf|gh[opsur]|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_-]{10,}"
    r"|\bAKIA[A-Z0-9]{12,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]+"
    r"|(?<=://)[^/\s@]+(?=@)"
    r"|\b(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{32,}\b"
)
"""Keys by their known beginnings, JSON web tokens, user and password of an address, and long random texts."""


def make_environment(run: str, rank: int) -> Environment:
    """Return what this process runs with, as it is now."""
    return Environment(
        run=run,
        rank=rank,
        host=socket.gethostname(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=_versions(),
        devices=(_processor(), *_cuda_devices()),
        command=without_secrets(sys.orig_argv[1:]),
        script=_script(),
        directory=_directory(),
        variables={name: os.environ[name][:_LENGTH_LIMIT] for name in _VARIABLES if name in os.environ},
        settings=_settings(),
    )


def without_secrets(arguments: Iterable[str]) -> tuple[str, ...]:
    """Return the arguments of a command line, with "<hidden>" for each value that may be a secret.

    A value is hidden if the name of its argument has a word such as key, token or password, unless it is a
    number, and if it looks like a key itself. The code of `python -c` is hidden. Long arguments are cut.
    """
    return tuple(argument[:_LENGTH_LIMIT] for argument in _shown(arguments))[:_ARGUMENTS_LIMIT]


def _shown(arguments: Iterable[str]) -> Iterator[str]:
    before, is_of_python = "", True
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_code = before == "-c" and is_of_python
        if is_code or (_is_secret(before, argument) and not argument.startswith("--")):
            yield HIDDEN
        elif equals and _is_secret(name, value):
            yield f"{name}={HIDDEN}"
        else:
            yield _SECRET_VALUE.sub(HIDDEN, argument)
        before = argument if argument.startswith("-") and not equals else ""
        is_of_python = is_of_python and bool(before)


def _is_secret(name: str, value: str) -> bool:
    words = {word.lower() for word in _WORD.findall(name)}
    return bool(words & _PASSWORDS) or (bool(words & _SECRET_WORDS) and not _is_number(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "gradscope": __version__,
        "cuda": torch.version.cuda or "",
        "hip": torch.version.hip or "",
    }
    for name in ("numpy", "transformers", "lightning", "accelerate", "triton"):
        found[name] = str(getattr(sys.modules.get(name), "__version__", ""))  # only what is imported
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch lacks its type
        found["cudnn"] = str(torch.backends.cudnn.version() or "")  # type: ignore[no-untyped-call]  # as above
    return {name: version for name, version in found.items() if version}


def _processor() -> str:
    """Return the name of the CPU, and the number of its cores that the system shows."""
    name = platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            head = lines.read(4096)
    except OSError:  # not Linux
        head = ""
    found = re.search(r"^model name\s*:\s*(.+)$", head, re.MULTILINE)
    return f"{found[1] if found else name}, {os.cpu_count()} cores"


def _cuda_devices() -> list[str]:
    """Return the names of the CUDA devices; none if the process has not used CUDA, which this must not start."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch lacks its type
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _script() -> str:
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return str(Path(path).absolute()) if path and Path(path).is_file() else ""


def _directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


_SETTINGS: Final[dict[str, Callable[[], object]]] = {
    "default_dtype": lambda: str(torch.get_default_dtype()).removeprefix("torch."),
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
    "cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
    "cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
    "cudnn.enabled": lambda: torch.backends.cudnn.enabled,
    "fp32_precision": lambda: getattr(torch.backends, "fp32_precision", "not known"),
    "cuda.matmul.fp32_precision": lambda: torch.backends.cuda.matmul.fp32_precision,
    "cudnn.conv.fp32_precision": lambda: torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]  # made at import
    "num_threads": torch.get_num_threads,
    "num_interop_threads": torch.get_num_interop_threads,
    "initial_seed": torch.initial_seed,
}


def _settings() -> dict[str, str]:
    found = {}
    for name, read in _SETTINGS.items():
        try:
            value = read()
        except (AttributeError, RuntimeError):  # a torch without this setting: not known
            continue
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found
