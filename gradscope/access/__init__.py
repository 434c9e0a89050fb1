"""Keys and roles: who may watch or change a run from another machine."""

from gradscope.access.authorized import (
    AuthorizedKey,
    AuthorizedKeys,
    Role,
    ViewerRole,
    authorize,
    revoke,
    server_key,
)
from gradscope.access.key_files import KeyPair, new_key_pair, own_key, own_keys, own_server_key
from gradscope.access.public_keys import CurveKeys, require_curve, to_hex, to_z85

__all__ = [
    "AuthorizedKey",
    "AuthorizedKeys",
    "CurveKeys",
    "KeyPair",
    "Role",
    "ViewerRole",
    "authorize",
    "new_key_pair",
    "own_key",
    "own_keys",
    "own_server_key",
    "require_curve",
    "revoke",
    "server_key",
    "to_hex",
    "to_z85",
]
