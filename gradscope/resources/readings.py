"""The results of one measured step, by layer index."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradscope.columns import MemoryRow, MemoryTable, TimeRow, TimesTable, balance_of
from gradscope.resources.attribution import OUTSIDE
from gradscope.resources.layer_marks import LayerMemoryMarks
from gradscope.resources.probe import MemoryPeak
from gradscope.resources.stopwatch import Stopwatch

__all__ = ["OwnedBytes", "memory_table", "times_table"]

_NOT_CALLED = (
    "no call of a layer was observed: the model is compiled, or it was not called in this step; the "
    "memory saved for its backward pass is not known"
)
_THREADS = (
    "layers were called in {count} threads; operations of threads other than the one that called the "
    "model may be assigned to wrong layers"
)
_UNSEEN = "{count} operations of {layer} save memory that cannot be read: {reason}"
_HELD = "{size_bytes:,} bytes of {layer} are held by a {holder}"
_OUTSIDE = "{size_bytes:,} bytes are saved by operations between the calls of layers"
_NO_BACKWARD = "no backward pass was observed in this step"


@dataclass(frozen=True, slots=True)
class OwnedBytes:
    """The bytes that layers own in addition to activations, by layer."""

    parameters: Counter[int] = field(default_factory=Counter)
    buffers: Counter[int] = field(default_factory=Counter)
    gradients: Counter[int] = field(default_factory=Counter)
    optimizer: Counter[int] = field(default_factory=Counter)


def memory_table(
    step: int,
    names: Sequence[str],
    *,
    peak: MemoryPeak | None,
    called: int,
    threads: int,
    layer_marks: LayerMemoryMarks,
    owned: OwnedBytes,
    optimizer_before_bytes: int,
    machine: Mapping[str, int],
    is_of_device: bool,
) -> MemoryTable:
    """Combine the results of a measured step.

    peak: None if nothing was saved for a backward pass.
    owned: includes gradients and optimizer state at the end of the step; the balance uses their size at the peak.
    """
    held = machine.get("device_allocated" if is_of_device else "host_resident", 0)
    total = held if peak is None or peak.held_bytes is None else peak.held_bytes
    parts = _parts(peak, owned, optimizer_before_bytes, is_of_device=is_of_device)
    return MemoryTable(
        step,
        names,
        _rows(len(names), peak, owned, layer_marks, has_run=bool(called)),
        balance=balance_of(parts, total),
        machine=machine,
        notes=tuple(_notes(names, peak, called=called, threads=threads)),
    )


def _rows(
    count: int,
    peak: MemoryPeak | None,
    owned: OwnedBytes,
    layer_marks: LayerMemoryMarks,
    *,
    has_run: bool,
) -> dict[int, MemoryRow]:
    saved = peak.saved.by_layer if peak is not None else Counter[int]()
    return {
        i: MemoryRow(
            saved_bytes=saved[i] if has_run else None,
            param_bytes=owned.parameters[i],
            grad_bytes=owned.gradients[i],
            optimizer_bytes=owned.optimizer[i],
            buffer_bytes=owned.buffers[i],
            entry_bytes=layer_marks.entry.get(i),
            exit_bytes=layer_marks.exit.get(i),
            peak_bytes=layer_marks.peak.get(i),
        )
        for i in range(count)
    }


def _parts(
    peak: MemoryPeak | None, owned: OwnedBytes, optimizer_bytes: int, *, is_of_device: bool
) -> dict[str, int]:
    """Return the memory at the peak by purpose. For a device, activations on the host are omitted."""
    parts = {
        "parameters": sum(owned.parameters.values()),
        "buffers": sum(owned.buffers.values()),
        "optimizer": optimizer_bytes,
    }
    if peak is None:
        return parts | {"gradients": sum(owned.gradients.values())}
    elsewhere = peak.saved.host_bytes if is_of_device else 0
    return parts | {
        "gradients": peak.grad_bytes,
        "saved": peak.saved.total_bytes - elsewhere,
        "batch": peak.batch_bytes,
    }


def times_table(step: int, names: Sequence[str], watch: Stopwatch, *, is_observed: bool) -> TimesTable:
    """Return the times of a stopwatch that is ready."""
    times = watch.times()
    has_backward = bool(times.backward_s)
    rows = {
        i: TimeRow(
            forward_s=times.forward_s.get(i, 0.0),
            backward_s=times.backward_s.get(i, 0.0) if has_backward else None,
            calls=times.calls.get(i, 0),
        )
        for i in range(len(names))
    }
    notes = () if has_backward else (_NO_BACKWARD,)
    return TimesTable(
        step,
        names,
        rows if times.calls else {},
        phases_s=times.phases_s,
        clock=watch.clock.name,
        is_observed=is_observed,
        notes=notes if times.calls else (_NOT_CALLED,),
    )


def _notes(
    names: Sequence[str], peak: MemoryPeak | None, *, called: int, threads: int
) -> Iterator[str]:
    if not called:
        yield _NOT_CALLED
    if threads > 1:
        yield _THREADS.format(count=threads)
    if peak is None:
        return

    def named(layer: int) -> str:
        return "no layer" if layer == OUTSIDE else names[layer] or "the model itself"

    for (layer, holder), size in sorted(peak.saved.holders.items()):
        yield _HELD.format(size_bytes=size, layer=named(layer), holder=holder)
    for (layer, reason), count in sorted(peak.saved.unseen.items()):
        yield _UNSEEN.format(count=count, layer=named(layer), reason=reason)
    outside = peak.saved.by_layer[OUTSIDE]
    if outside:
        yield _OUTSIDE.format(size_bytes=outside)
