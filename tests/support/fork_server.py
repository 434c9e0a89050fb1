"""Processes that have imported torch and gradscope already: forks of one server.

A fresh interpreter takes seconds to import torch. `run` and `Popen` take what those of `subprocess`
take, for a command that begins with `sys.executable`, and fork a server that did so once. The forked
process has the given arguments, environment, working directory and streams, runs the program as
`__main__` and exits as an interpreter does.

Use `subprocess` in a test about a fresh interpreter: what an import loads or does, what a variable of
the environment does to an import, how much memory a process takes.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

__all__ = ["Popen", "close", "own_pids", "run", "started_pids"]

_PROGRAM = Path(__file__).with_name("fork_server_main.py")
_running: dict[int, "Popen"] = {}


class _Server:
    """The process that forks. It ends when the other end of its socket is closed."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # One thread, which a fork needs; PyTorch starts threads when it first computes.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
        self.pid = self._process.pid
        self._lock = threading.Lock()

    def fork(self, request: dict[str, object], streams: list[int], status: int) -> int:
        """Fork a process and return its id; its wait status is written to the pipe `status`."""
        body = json.dumps(request).encode()
        with self._lock:
            socket.send_fds(self._socket, [len(body).to_bytes(4, "little")], [*streams, status])
            self._socket.sendall(body)
            answer = self._socket.recv(4, socket.MSG_WAITALL)
        if len(answer) < 4:
            raise RuntimeError(f"the fork server ended with {self._process.wait()}")
        return int.from_bytes(answer, "little")

    def close(self) -> None:
        self._socket.close()
        self._process.wait(20)


_servers: list[_Server] = []


def _server() -> _Server:
    if not _servers:
        _servers.append(_Server())
    return _servers[0]


def close() -> None:
    """End the server, if there is one."""
    while _servers:
        _servers.pop().close()


def own_pids() -> set[int]:
    """Return the id of the server's process, if there is one."""
    return {server.pid for server in _servers}


def started_pids() -> set[int]:
    """Return the ids of the forked processes that no test has waited for."""
    return {pid for pid, process in list(_running.items()) if process.poll() is None}


class Popen(subprocess.Popen):
    """A forked process. `preload`: modules that the server imports before it forks."""

    def __init__(self, command, *, preload=(), **options) -> None:
        assert str(command[0]) == sys.executable, command
        self._preload = list(preload)
        super().__init__([str(part) for part in command], **options)

    def _execute_child(  # noqa: PLR0917 - as subprocess.Popen has it
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
        shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
    ) -> None:  # fmt: skip
        """Have the server fork, in the place of fork and exec."""
        given = [p2cread, c2pwrite, errwrite]
        streams = [fd if theirs == -1 else theirs for fd, theirs in enumerate(given)]
        request = {
            "arguments": args[1:],
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "preload": self._preload,
        }
        self._status, theirs = os.pipe()
        try:
            self.pid = _server().fork(request, streams, theirs)
        finally:
            os.close(theirs)
            pipes = (p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread)
            close = {theirs for theirs, ours in pipes if ours != -1}  # not a file of the caller
            for fd in close | {getattr(self, "_devnull", -1)} - {-1, None}:
                os.close(fd)
            self._devnull = None
        self._child_created = True
        _running[self.pid] = self

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit code."""
        if self._look(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    _wait = wait

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            status = os.read(self._status, 4)
            os.close(self._status)
            self.returncode = os.waitstatus_to_exitcode(int.from_bytes(status, "little"))
            _running.pop(self.pid, None)
        return self.returncode


def run(
    command, *, capture_output=False, input=None, timeout=None, check=False, preload=(), **options
) -> subprocess.CompletedProcess:
    """Run a command to its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(command, preload=preload, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            process.wait(20)
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


if sys.platform != "linux":  # elsewhere libraries that torch loads do not survive a fork

    class Popen(subprocess.Popen):
        """A process as `subprocess` starts it."""

        def __init__(self, command, *, preload=(), **options) -> None:
            super().__init__(command, **options)
