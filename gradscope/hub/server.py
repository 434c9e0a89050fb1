"""`Hub`: the event loop that owns both sockets. It blocks only in `poll`."""

import math
import os
import resource
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import zmq

from gradscope._version import __version__
from gradscope.hub.agent_handler import AgentHandler
from gradscope.hub.network.head import Head
from gradscope.hub.peers import Identity, Peers
from gradscope.hub.recorders import Recorders
from gradscope.hub.router_socket import (
    AGENT_PART_BYTES,
    VIEWER_PART_BYTES,
    RouterSocket,
    open_descriptors,
)
from gradscope.hub.runs import RunTable
from gradscope.hub.viewer_handler import ViewerHandler
from gradscope.paths import ensure_private_dir
from gradscope.protocol import Bye, Event, Heartbeat, encode
from gradscope.transport import HubAddress
from gradscope.transport.lock import PathLock
from gradscope.transport.options import HEARTBEAT_S
from gradscope.transport.waker import Waker

__all__ = ["Hub"]

_BATCH = 100
_SILENCE_CHECK_S = 0.5
_RANKS_EVERY_S = 1.0
_CLOSE_CONNECTIONS_S = 0.25
_DESCRIPTORS_LIMIT = 4_000
"""Twice the peers that a hub accepts: 1,000 at each socket. Connections without a handshake end after 3 s."""
_STALL_S = 3.0
_BYE_TIMEOUT_S = 0.2
_REASON_LIMIT = 1_000


class Hub:
    """Passes messages between agents and viewers. It owns its sockets from construction until `close`.

    Call all methods except `stop` from the same thread. The caller holds `lock`. If the lock file is
    removed and another hub acquires the lock, this hub ends.
    """

    def __init__(self, address: HubAddress, lock: PathLock, *, idle_s: float = 10.0) -> None:
        self._address = address
        self._lock = lock
        self._idle_s = idle_s
        self._counts: Counter[str] = Counter()
        self._identity = Identity(uuid.uuid4().hex, __version__, os.getpid())
        self._runs = RunTable()
        self._recorders = Recorders()
        self._head = Head(address.directory)
        self._waker = Waker()
        self._end_reason = ""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._bind()
        self._lock.write(f"{self._identity.pid} {self._identity.epoch} {self._identity.version}\n")
        self._busy_s = self._last_turn_s = time.monotonic()
        self._housekeeping_due_s = self._silence_due_s = self._close_connections_due_s = 0.0
        self._ranks_due_s = 0.0

    def _bind(self) -> None:
        agent_socket = RouterSocket(
            self._context, self._address.agents_path, part_limit_bytes=AGENT_PART_BYTES
        )
        viewer_socket = RouterSocket(
            self._context, self._address.viewers_path, part_limit_bytes=VIEWER_PART_BYTES
        )
        viewers = ViewerHandler(self._runs, viewer_socket.send, agent_socket.send, self._counts)
        agents = AgentHandler(self._runs, self._recorders, viewers, self._waker.wake)
        self._agent_handler = agents
        self._agents = Peers(agent_socket, agents, self._identity, self._counts)
        self._viewers = Peers(viewer_socket, viewers, self._identity, self._counts)
        self._viewer_handler = viewers
        self._poller = zmq.Poller()
        self._descriptors_limit = min(
            _DESCRIPTORS_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        )
        for router in (agent_socket, viewer_socket):
            self._poller.register(router.socket, zmq.POLLIN)
            self._poller.register(router.monitor, zmq.POLLIN)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)

    def run(self, housekeeping: Callable[[], None] | None = None) -> None:
        """Serve until there is no peer for `idle_s`, or until `stop`. Calls `housekeeping` every 2 s."""
        again_s = 0.0
        while not self._end_reason:
            self._poll_sockets(again_s)
            now_s = time.monotonic()
            is_behind = self._receive(now_s)
            self._agent_handler.publish_found()
            again_s = now_s if is_behind else math.inf
            self._check_silence(now_s, is_behind=is_behind)
            if now_s >= self._ranks_due_s:
                self._ranks_due_s = now_s + _RANKS_EVERY_S
                self._agent_handler.publish_ranks()
            if now_s >= self._housekeeping_due_s:
                self._do_housekeeping(now_s)
                if housekeeping is not None:
                    housekeeping()
            if self._runs.has_changed:
                self._runs.has_changed = False
                self._viewer_handler.publish_runs()
            again_s = min(again_s, self._viewer_handler.flush(now_s))

    def stop(self, reason: str) -> None:
        """Make `run` return soon. May be called from any thread or a signal handler."""
        self._end_reason = reason
        self._waker.wake()

    def close(self) -> None:
        """Send `bye` to all peers, close the sockets, remove their files, and close the recordings."""
        self._head.close()
        bye = Bye(reason=self._end_reason or "the hub failed")
        for peers in (self._agents, self._viewers):
            peers.send_to_all(bye)
        self._await_byes()
        for peers in (self._agents, self._viewers):
            peers.socket.close()
        self._context.term()
        self._waker.close()
        self._recorders.close(bye.reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _await_byes(self) -> None:
        """Wait up to 200 ms for answers, because libzmq drops unread messages when a connection closes."""
        self._waker.clear()
        deadline_s = time.monotonic() + _BYE_TIMEOUT_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not self._agents.receive_byes() + self._viewers.receive_byes():
                return
            self._poller.poll(math.ceil(left_s * 1000))

    def _poll_sockets(self, again_s: float) -> None:
        housekeeping_s = min(self._housekeeping_due_s, self._silence_due_s, self._ranks_due_s)
        due_s = min(again_s, housekeeping_s, self._busy_s + self._idle_s)
        wait_ms = max(0, math.ceil((due_s - time.monotonic()) * 1000))
        ready = dict(self._poller.poll(wait_ms))
        if self._waker.fileno() in ready:
            self._waker.clear()
        accepted = [peers.socket.has_accepted(ready) for peers in (self._agents, self._viewers)]
        if any(accepted):
            self._bound_connections()

    def _bound_connections(self) -> None:
        """Close all connections if many file descriptors are open: libzmq aborts a process that has none left.

        libzmq cannot close one connection; the peers connect again.
        """
        now_s = time.monotonic()
        if now_s >= self._close_connections_due_s and open_descriptors() > self._descriptors_limit:
            self._close_connections_due_s = now_s + _CLOSE_CONNECTIONS_S
            self._counts["closed_all_connections"] += 1
            for peers in (self._agents, self._viewers):
                peers.socket.bind_again()

    def _receive(self, now_s: float) -> bool:
        """Handle a batch of messages from each socket. Return whether more messages may be waiting."""
        if now_s - self._last_turn_s > _STALL_S:
            for peers in (self._agents, self._viewers):
                peers.reset_silence(now_s)
        self._last_turn_s = now_s
        counts = [peers.receive_batch(_BATCH, now_s) for peers in (self._agents, self._viewers)]
        return _BATCH in counts

    def _check_silence(self, now_s: float, *, is_behind: bool) -> None:
        if len(self._agents) or len(self._viewers) or not self._recorders.are_closed:
            self._busy_s = now_s
        elif now_s - self._busy_s >= self._idle_s:
            self._end_reason = f"no peers for {self._idle_s:g} s"
        if now_s >= self._silence_due_s and not is_behind:
            self._silence_due_s = now_s + _SILENCE_CHECK_S
            self._agents.drop_silent(now_s)
            self._viewers.drop_silent(now_s)

    # Called every 2 s.

    def _do_housekeeping(self, now_s: float) -> None:
        self._housekeeping_due_s = now_s + HEARTBEAT_S
        self._agents.send_to_all(self._viewer_handler.heartbeat())
        self._viewers.send_to_all(Heartbeat(counters=dict(self._counts)))
        self._report_failed_recordings()
        self._runs.bound_memory()
        self._head.tend(has_live_runs=self._runs.has_live)
        self._restore_files()

    def _report_failed_recordings(self) -> None:
        for run, reason in self._recorders.new_failures():
            for number, rank in self._runs.ranks(run):
                event = Event(
                    run=run,
                    rank=number,
                    step=rank.step or 0,
                    time_s=time.time(),
                    level="error",
                    code="recording_stopped",
                    text=f"the recording has stopped; the live view continues: {reason[:_REASON_LIMIT]}",
                )
                parts = encode(event)
                rank.keep(event, parts)
                self._viewer_handler.publish(event, parts)
                break

    def _restore_files(self) -> None:
        """Restore the lock and socket files if a job that deletes temporary files has removed them."""
        if not self._lock.is_in_place():
            ensure_private_dir(self._address.directory)
            self._lock.release()
            if not self._lock.acquire():
                self._end_reason = "another hub has taken the lock"
                return
            self._lock.write(f"{self._identity.pid} {self._identity.epoch} {self._identity.version}\n")
        for peers in (self._agents, self._viewers):
            if peers.socket.rebind_if_replaced():
                self._counts["rebound"] += 1
                with suppress(OSError):  # the disk of the log is full
                    sys.stderr.write(f"gradscope hub: bound {peers.socket.path} again\n")
