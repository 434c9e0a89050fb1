"""`gradscope config`: shows where files and sockets are, and the hub."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import zmq

from gradscope.cli.output import print_json, print_lines
from gradscope.paths import data_dir, keys_dir, recordings_dir
from gradscope.transport import hub_address, hub_listens
from gradscope.transport.election import LOG_NAME
from gradscope.transport.lock import HUB_LOCK, holder_pid

__all__ = ["print_configuration"]

_PACKAGES = ("gradscope", "torch", "pyzmq", "textual", "numpy")


def print_configuration(*, as_json: bool) -> None:
    """Print the configuration as lines or as JSON."""
    found = _configuration()
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    print_lines(
        *(f"{name:<{width}}  {'-' if value is None else value}" for name, value in found.items())
    )


def _configuration() -> dict[str, str | int | None]:
    return {
        **_hub_configuration(),
        "keys": str(keys_dir()),
        "transport encryption": _describe_encryption(),
        "data directory": str(data_dir()),
        "recordings": str(recordings_dir()),
        "native pass": _native_pass(),
        "CUDA pass": _describe_cuda_reduction(),
        "python": f"{sys.version.split()[0]} at {sys.executable}",
        **{package: _version(package) for package in _PACKAGES},
    }


def _hub_configuration() -> dict[str, str | int | None]:
    address = hub_address()
    if address.is_remote:
        return {"hub": f"{address.viewers}, as GRADSCOPE_HUB says"}
    is_up = hub_listens(address)
    return {
        "runtime directory": str(address.directory),
        "agents' socket": address.agents,
        "viewers' socket": address.viewers,
        "hub": "listens" if is_up else "none runs",
        "hub's process": holder_pid(address.directory / HUB_LOCK) if is_up else None,
        "hub's log": str(address.directory / LOG_NAME),
    }


def _describe_encryption() -> str:
    if zmq.has("curve"):
        return f"CurveZMQ, by libzmq {zmq.zmq_version()}"
    return f"none: libzmq {zmq.zmq_version()} was built without CurveZMQ, so `gradscope serve` cannot start"


def _native_pass() -> str:
    """Report whether the native pass is built. Looks for its file, because importing it would load torch."""
    package = importlib.util.find_spec("gradscope")
    folders = package.submodule_search_locations if package is not None else None
    is_built = any(Path(folder, "native").glob("_native.*.so") for folder in folders or ())
    return "built" if is_built else "not built: PyTorch's own operations measure CPU tensors"


def _describe_cuda_reduction() -> str:
    """Report which pass handles CUDA tensors. Does not load torch, so it does not check for a device."""
    if os.environ.get("GRADSCOPE_TRITON") != "1":
        return "eager: the Triton kernels are off; GRADSCOPE_TRITON=1 turns them on"
    if importlib.util.find_spec("triton") is None:
        return "eager: Triton is not installed"
    return f"triton {_version('triton')}, if there is a CUDA device"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
