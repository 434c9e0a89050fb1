"""`gradscope export`: writes the recorded data of a run for other programs."""

from collections.abc import Sequence
from pathlib import Path

from gradscope.cli.output import print_result
from gradscope.export import Format, export_run
from gradscope.names import counted

__all__ = ["export_and_print"]


def export_and_print(
    run: str,
    output: Path,
    form: Format | None,
    *,
    layers: Sequence[str],
    kinds: Sequence[str],
    stats: Sequence[str],
    steps: str,
    force: bool,
    as_json: bool,
) -> None:
    """Export a run, and print how much it is; nothing if the export itself went to stdout."""
    count = export_run(
        run, output, form, layers=layers, kinds=kinds, stats=stats, steps=steps, may_replace=force
    )
    if str(output) == "-":
        return
    what = counted(count, "point" if form == "tensorboard" else "row")
    document = {"run": run, "path": str(output.absolute()), "count": count}
    print_result(document, as_json, f"wrote {output} ({what})")
