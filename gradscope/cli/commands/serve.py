"""`gradscope serve`: lets viewers on other machines watch the runs of this one."""

import os
import re
import signal
import socket

from gradscope.access import AuthorizedKeys, own_server_key, require_curve, to_hex
from gradscope.cli.exit_codes import DONE
from gradscope.cli.output import print_json, print_lines
from gradscope.errors import UsageError
from gradscope.hub.network.gateway import Gateway
from gradscope.hub.process import raise_file_limit
from gradscope.names import counted
from gradscope.notice import print_notice
from gradscope.paths import ensure_private_dir
from gradscope.transport import hub_address

__all__ = ["serve"]

_BIND = re.compile(r"tcp://(\*|\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):(\*|[0-9]{1,5})")


def serve(bind: str, *, as_json: bool) -> int:
    """Serve until Ctrl+C or SIGTERM. Return the exit code.

    Raises UsageError for an address that is not TCP, without CURVE, without a key of this server, and if no key of a
    viewer is authorized.
    """
    if not _BIND.fullmatch(bind) or (
        bind.rpartition(":")[2].isdigit() and int(bind.rpartition(":")[2]) > 65535
    ):
        raise UsageError(
            f"expected --bind tcp://HOST:PORT, such as tcp://0.0.0.0:5711, got {bind!r}; port 0 is any free one"
        )
    require_curve()
    server, keys = own_server_key(may_create=False), AuthorizedKeys()
    viewers = [key for key in keys.all() if key.role != "server"]
    if not viewers:
        raise UsageError(
            f"refused to listen on {bind}: expected an authorized key, found none, so no viewer could connect; on the "
            "other machine: gradscope key new; here: gradscope key authorize PUBLICKEY --name NAME --role observe"
        )
    hub = hub_address()
    ensure_private_dir(hub.directory)
    raise_file_limit()
    with Gateway(hub, re.sub(r":0$", ":*", bind), server, keys) as gateway:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: gateway.stop())
        address, public = gateway.address, to_hex(server.public)
        if as_json:
            shown = [{"name": key.name, "role": key.role} for key in viewers]
            print_json(
                {"address": address, "pid": os.getpid(), "curve_publickey": public, "keys": shown}
            )
        else:
            print_lines(
                f"listening on {address}, with CurveZMQ; the public key of this server is {public}"
            )
            print_notice(
                f"gradscope: {counted(len(viewers), 'key')} may connect: "
                + ", ".join(f"{key.name} ({key.role})" for key in viewers)
                + f". To watch: gradscope watch {_reachable(address)}. Ctrl+C ends it"
            )
        gateway.run()
    return DONE


def _reachable(address: str) -> str:
    """Return the address for another machine: with the name of this one, if it listens on all interfaces."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"tcp://{socket.gethostname()}:{port}" if host in ("0.0.0.0", "[::]", "*") else address  # noqa: S104 - compared only
