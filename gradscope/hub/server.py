"""`Hub`: the loop that owns both sockets. It waits in one place, the poll, and nowhere else."""

import math
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import zmq

from gradscope._version import __version__
from gradscope.hub.agent_handler import AgentHandler
from gradscope.hub.peers import Identity, Peers
from gradscope.hub.recorders import RecorderFactory, Recorders
from gradscope.hub.router_socket import RouterSocket
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
_STALL_S = 3.0
_FAREWELL_S = 0.2


class Hub:
    """A hub, from the binding of its sockets to `close`. Everything but `stop` belongs to one thread.

    `lock` is held by the caller and must stay in place: when a cleaner has removed it and another hub
    has taken its place, this one ends.
    """

    def __init__(
        self,
        address: HubAddress,
        lock: PathLock,
        *,
        idle_s: float = 10.0,
        recorder: RecorderFactory | None = None,
    ) -> None:
        self._address = address
        self._lock = lock
        self._idle_s = idle_s
        self._counts: Counter[str] = Counter()
        self._identity = Identity(uuid.uuid4().hex, __version__, os.getpid())
        self._runs = RunTable()
        self._recorders = Recorders(recorder)
        self._waker = Waker()
        self._end_reason = ""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open_doors()
        self._lock.write(f"{self._identity.pid} {self._identity.epoch} {self._identity.version}\n")
        self._busy_s = self._last_turn_s = time.monotonic()
        self._housekeeping_due_s = self._silence_due_s = 0.0

    def _open_doors(self) -> None:
        agent_door = RouterSocket.for_agents(self._context, self._address.agents_path)
        viewer_door = RouterSocket.for_viewers(self._context, self._address.viewers_path)
        viewers = ViewerHandler(self._runs, viewer_door.send, agent_door.send, self._counts)
        agents = AgentHandler(self._runs, self._recorders, viewers)
        self._agents = Peers(agent_door, agents, self._identity, self._counts)
        self._viewers = Peers(viewer_door, viewers, self._identity, self._counts)
        self._viewer_desk = viewers
        self._poller = zmq.Poller()
        for door in (agent_door, viewer_door):
            self._poller.register(door.socket, zmq.POLLIN)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)

    def run(self, housekeeping: Callable[[], None] | None = None) -> None:
        """Serve until nobody is left, or `stop`. `housekeeping` is called every 2 s."""
        again_s = 0.0
        while not self._end_reason:
            self._wait(again_s)
            now_s = time.monotonic()
            is_behind = self._take(now_s)
            again_s = now_s if is_behind else math.inf
            self._check_silence(now_s, is_behind=is_behind)
            if now_s >= self._housekeeping_due_s:
                self._keep_house(now_s)
                if housekeeping is not None:
                    housekeeping()
            if self._runs.has_changed:
                self._runs.has_changed = False
                self._viewer_desk.publish_runs()
            again_s = min(again_s, self._viewer_desk.flush(now_s))

    def stop(self, reason: str) -> None:
        """End `run` soon, from any thread or a signal handler."""
        self._end_reason = reason
        self._waker.wake()

    def close(self) -> None:
        """Say goodbye, close the sockets and remove their files, then close the recordings."""
        farewell = Bye(reason=self._end_reason or "the hub failed")
        for lobby in (self._agents, self._viewers):
            lobby.tell_all(farewell)
        self._await_answers()
        for lobby in (self._agents, self._viewers):
            lobby.door.close()
        self._context.term()
        self._waker.close()
        self._recorders.close(farewell.reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await_answers(self) -> None:
        """Wait a moment for each peer's answer: libzmq drops what was not read with a connection."""
        self._waker.clear()
        deadline_s = time.monotonic() + _FAREWELL_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not self._agents.take_answers() + self._viewers.take_answers():
                return
            self._poller.poll(math.ceil(left_s * 1000))

    def _wait(self, again_s: float) -> None:
        due_s = min(again_s, self._housekeeping_due_s, self._silence_due_s, self._busy_s + self._idle_s)
        wait_ms = max(0, math.ceil((due_s - time.monotonic()) * 1000))
        ready = dict(self._poller.poll(wait_ms))
        if self._waker.fileno() in ready:
            self._waker.clear()

    def _take(self, now_s: float) -> bool:
        """Take a batch from each door; return whether more may wait there."""
        if now_s - self._last_turn_s > _STALL_S:
            for lobby in (self._agents, self._viewers):
                lobby.excuse_silence(now_s)
        self._last_turn_s = now_s
        taken = [lobby.take(_BATCH, now_s) for lobby in (self._agents, self._viewers)]
        return _BATCH in taken

    def _check_silence(self, now_s: float, *, is_behind: bool) -> None:
        if len(self._agents) or len(self._viewers) or not self._recorders.are_closed:
            self._busy_s = now_s
        elif now_s - self._busy_s >= self._idle_s:
            self._end_reason = f"nobody was left for {self._idle_s:g} s"
        if now_s >= self._silence_due_s and not is_behind:
            self._silence_due_s = now_s + _SILENCE_CHECK_S
            self._agents.drop_silent(now_s)
            self._viewers.drop_silent(now_s)

    # Every 2 s.

    def _keep_house(self, now_s: float) -> None:
        self._housekeeping_due_s = now_s + HEARTBEAT_S
        self._agents.tell_all(Heartbeat(peers=self._viewer_desk.peers, counters=dict(self._counts)))
        self._viewers.tell_all(Heartbeat(counters=dict(self._counts)))
        self._tell_of_failed_recordings()
        self._keep_in_place()

    def _tell_of_failed_recordings(self) -> None:
        for run, reason in self._recorders.new_failures():
            for number, rank in self._runs.ranks(run):
                event = Event(
                    run=run,
                    rank=number,
                    step=rank.step or 0,
                    time_s=time.time(),
                    level="error",
                    code="recording_stopped",
                    text=f"the recording has stopped, the live view goes on: {reason}",
                )
                parts = encode(event)
                rank.keep(event, parts)
                self._viewer_desk.publish(event, parts)
                break

    def _keep_in_place(self) -> None:
        """Put back what a cleaner of temporary files may have removed: lock and sockets."""
        if not self._lock.is_in_place():
            ensure_private_dir(self._address.directory)
            self._lock.release()
            if not self._lock.acquire():
                self._end_reason = "another hub has taken this one's place"
                return
            self._lock.write(f"{self._identity.pid} {self._identity.epoch} {self._identity.version}\n")
        for lobby in (self._agents, self._viewers):
            if lobby.door.keep_in_place():
                self._counts["rebound"] += 1
                sys.stderr.write(f"gradscope hub: bound {lobby.door.path} again\n")
