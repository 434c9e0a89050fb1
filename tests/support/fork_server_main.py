"""The program of the fork server: imports torch and gradscope, then forks one process a request.

    python fork_server_main.py SOCKET

A request is a length of four bytes, sent with four file descriptors (three streams and a pipe), and
JSON: arguments, environment, folder, preload. The answer is the process id. When the process ends, its
wait status is written to the pipe, four bytes.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRELOAD = ("torch", "torch._dynamo", "gradscope.agent", "gradscope.client")


def serve(link: socket.socket) -> dict[str, object]:
    """Fork one process for each request; return the request in each of them."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    statuses: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([link, ended], [], [])
        if ended in ready:
            os.read(ended, 100)
            _report_ended(statuses)
        if link not in ready:
            continue
        size, fds, _, _ = socket.recv_fds(link, 4, 4)
        if len(size) < 4:
            os._exit(0)
        request = json.loads(link.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL))
        _preload(request["preload"])
        *streams, status = fds
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for fd in (ended, wake, status, *statuses.values()):
                os.close(fd)
            link.close()
            take_streams(streams)
            return request
        statuses[pid] = status
        for fd in streams:
            os.close(fd)
        link.sendall(pid.to_bytes(4, "little"))


def _preload(names: list[str]) -> None:
    """Import modules that a forked process needs, and exempt them from its garbage collection."""
    if any(name not in sys.modules for name in names):
        for name in names:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()


def _report_ended(statuses: dict[int, int]) -> None:
    """Write the wait status of each process that has ended."""
    while statuses:
        pid, how = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with open(statuses.pop(pid), "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(how.to_bytes(4, "little"))


def take_streams(streams: list[int]) -> None:
    for fd, given in enumerate(streams):
        os.dup2(given, fd)
    for given in streams:
        os.close(given)


def become(request: dict[str, object]) -> None:
    """Take on the environment, folder and warning filters of the request."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    _open_streams()
    import numpy
    import torch

    numpy.random.seed()  # noqa: NPY002 - the global one is meant
    torch.seed()
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _open_streams() -> None:
    """Open the three streams as an interpreter does: those of the server remember its own files."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    defaults = {"stdin": "strict", "stdout": "strict", "stderr": "backslashreplace"}
    for fd, (name, handler) in enumerate(defaults.items()):
        by_line = 1 if name == "stderr" or (fd and "PYTHONUNBUFFERED" in os.environ) else -1
        stream = open(  # noqa: SIM115 - a descriptor that stays open
            fd, "w" if fd else "r", by_line, encoding or None, errors or handler, closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(arguments: list[str]) -> None:
    """Run `[-W filter] -c code`, `-m module` or `file`, each with its arguments, as `__main__`."""
    while arguments[0] == "-W":
        warnings._setoption(arguments[1])
        arguments = arguments[2:]
    kind = arguments[0] if arguments[0] in ("-c", "-m") else "file"
    what, rest = arguments[kind != "file"], arguments[1 + (kind != "file") :]
    sys.argv = [kind if kind != "file" else what, *rest]
    sys.path[0] = str(Path(what).resolve().parent) if kind == "file" else ""
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    source, name = what, "<string>"
    if kind == "file":
        main.__file__ = name = what
        source = Path(what).read_text(encoding="utf-8")
    exec(compile(source, name, "exec"), vars(main))


def leave(code: int) -> None:
    """Exit as an interpreter does, but for freeing every object, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    _preload(PRELOAD)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork needs a process of one thread"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    become(request)
    try:
        run(request["arguments"])
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        leave(error.code if isinstance(error.code, int) else int(error.code is not None))
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        atexit.register(signal.raise_signal, signal.SIGINT)
    except BaseException as error:  # noqa: BLE001 - any: it is reported as an interpreter does
        own = error.with_traceback(error.__traceback__.tb_next.tb_next)
        sys.excepthook(type(own), own, own.__traceback__)
        leave(1)
    leave(0)


if __name__ == "__main__":
    sys.path.insert(1, str(ROOT))
    main()
