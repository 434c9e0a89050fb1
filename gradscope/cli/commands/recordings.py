"""`gradscope rm`, `gradscope pin`, `gradscope unpin`: the recordings on disk."""

from collections.abc import Sequence

from gradscope.cli.output import print_result
from gradscope.columns import bytes_in_words
from gradscope.names import counted
from gradscope.recording.disk_space import find_recording, pin_recording, remove_recording

__all__ = ["pin", "remove"]


def remove(runs: Sequence[str], *, as_json: bool) -> None:
    """Remove recordings, by the names of runs or paths of files; none of them if one cannot be found."""
    infos = [find_recording(run) for run in runs]
    sizes = [remove_recording(info) for info in infos]
    document = {
        "removed": [
            {"run": info.run, "path": str(info.path), "size_bytes": size}
            for info, size in zip(infos, sizes, strict=True)
        ]
    }
    words = f"removed {counted(len(infos), 'recording')}, {bytes_in_words(sum(sizes))}"
    print_result(document, as_json, words)


def pin(runs: Sequence[str], *, is_pinned: bool, as_json: bool) -> None:
    """Pin or unpin recordings, by the names of runs or paths of files."""
    infos = [find_recording(run) for run in runs]
    for info in infos:
        pin_recording(info.path, is_pinned=is_pinned)
    document = {
        "recordings": [
            {"run": info.run, "path": str(info.path), "is_pinned": is_pinned} for info in infos
        ]
    }
    state = (
        "pinned: kept until it is unpinned" if is_pinned else "not pinned: removed if space is needed"
    )
    print_result(document, as_json, *(f"{info.run}: {state}" for info in infos))
