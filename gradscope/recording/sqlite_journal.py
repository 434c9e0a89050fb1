"""Chooses the SQLite journal mode of a recording by the type of its file system.

With WAL, readers can read while the file is written. WAL needs memory that all processes share, which
network file systems do not provide. On network and unknown file systems, SQLite's rollback journal is
used, which works everywhere.
"""

import os
import re
from pathlib import Path
from typing import Literal

__all__ = ["journal_mode", "journal_mode_for"]

_MOUNTS = Path("/proc/mounts")

_LOCAL = frozenset(
    {"apfs", "aufs", "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk"}
    | {"hfs", "hfsplus", "jfs", "msdos", "nilfs2", "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs"}
    | {"rootfs", "tmpfs", "ubifs", "udf", "vfat", "xfs", "zfs"}
)


def journal_mode(directory: Path) -> Literal["wal", "delete"]:
    """Return the journal mode for a recording in `directory`, according to the current mounts."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return "delete"
    return journal_mode_for(os.path.realpath(directory), mounts)


def journal_mode_for(directory: str, mounts: str) -> Literal["wal", "delete"]:
    """Return the journal mode for an absolute path without symlinks, given the text of /proc/mounts."""
    found, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _unescape(fields[1])
        # A later mount on the same point hides the earlier one.
        if _lies_in(directory, point) and len(point) >= len(found):
            found, kind = point, fields[2]
    return "wal" if kind in _LOCAL else "delete"


def _lies_in(directory: str, point: str) -> bool:
    return directory == point or directory.startswith(point.rstrip("/") + "/")


def _unescape(field: str) -> str:
    r"""Undo the kernel's octal escapes; for example, a space in a mount point is written as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
