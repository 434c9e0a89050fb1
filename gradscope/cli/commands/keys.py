"""`gradscope key`: the keys of this user, and the keys that are authorized on this machine."""

import contextlib

from gradscope.access import (
    AuthorizedKeys,
    Role,
    authorize,
    new_key_pair,
    own_keys,
    own_server_key,
    require_curve,
    revoke,
    to_hex,
    to_z85,
)
from gradscope.cli.output import print_json, print_lines, print_result, table_lines
from gradscope.errors import UsageError
from gradscope.transport import hub_address

__all__ = ["authorize_key", "list_keys", "make_key", "revoke_key"]


def make_key(name: str, *, as_json: bool) -> None:
    """Make a key pair, and print its public key."""
    pair = new_key_pair(name)
    public = to_hex(pair.public)
    print_result(
        {"name": name, "curve_publickey": public, "path": str(pair.path)},
        as_json,
        public,
        f"The secret key stays in {pair.path}. On the machine of the training:",
        f"  gradscope key authorize {public} --name {name} --role observe",
    )


def list_keys(*, as_json: bool) -> None:
    """Print the keys of this user and the authorized ones."""
    rows = [(pair.name, "own", to_hex(pair.public)) for pair in own_keys()]
    rows += [(key.name, key.role, to_hex(key.curve_publickey)) for key in AuthorizedKeys().all()]
    if as_json:
        names = ("name", "role", "curve_publickey")
        print_json({"keys": [dict(zip(names, row, strict=True)) for row in rows]})
    elif rows:
        print_lines(*table_lines(("NAME", "ROLE", "PUBLIC KEY"), rows))
    else:
        print_lines("no keys yet; make one: gradscope key new")


def authorize_key(
    key: str, *, name: str | None, role: Role | None, server: str | None, as_json: bool
) -> None:
    """Authorize the key of a viewer with a role, or that of a server that this user watches."""
    require_curve()
    public = to_z85(key)
    if server is not None:
        if name is not None or role is not None:
            raise UsageError(
                "expected --server alone for the key of a server, or --name and --role for a viewer's"
            )
        if not hub_address(server).is_remote:
            raise UsageError(f"expected --server tcp://HOST:PORT, got {server!r}")
        authorize(server, public, "server")
        print_result(
            {"name": server, "role": "server", "curve_publickey": to_hex(public)},
            as_json,
            f"{server} is trusted with this key only; watch it with: gradscope watch {server}",
        )
        return
    if name is None:
        raise UsageError(
            "expected --name NAME for a viewer's key, or --server tcp://HOST:PORT for that of a server, got neither"
        )
    if public in {own.public for own in own_keys() if own.name == "server"}:
        raise UsageError(
            "this is the key of this machine's own server; authorize the key of the viewer, which "
            "`gradscope key new` prints on the other machine"
        )
    role = role or "observe"
    authorize(name, public, role)
    server_public = to_hex(own_server_key(may_create=True).public)
    may = _MAY[role]
    print_result(
        {
            "name": name,
            "role": role,
            "curve_publickey": to_hex(public),
            "server_publickey": server_public,
        },
        as_json,
        f"{name} {may} on this machine while `gradscope serve` is running. On the other machine, once:",
        f"  gradscope key authorize {server_public} --server tcp://HOST:PORT",
    )


_MAY = {
    "observe": "may observe runs",
    "control": "may observe and change runs",
    "forward": "may forward the runs of other nodes, which all viewers here then see,",
}


def revoke_key(name: str, *, as_json: bool) -> None:
    """Revoke an authorized key, by its name or by the key itself."""
    with contextlib.suppress(UsageError):  # it is a name
        name = to_z85(name)
    key = revoke(name)
    print_result(
        {"name": key.name, "role": key.role, "curve_publickey": to_hex(key.curve_publickey)},
        as_json,
        f"{key.name} is no longer authorized; a connection of it ends within a second",
    )
