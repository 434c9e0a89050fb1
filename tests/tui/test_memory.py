"""The memory page: bars that add up, and layers in the order of the memory that they save."""

import pytest
from rich.cells import cell_len
from synthetic_run import SyntheticRun
from test_app import SIZES, open_app

from gradscope.columns import MemoryRow, TimeRow
from gradscope.protocol import Memory, Times
from gradscope.protocol.bodies import pack_memory, pack_times
from gradscope_tui.store.resources import ResourceStore
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.resources import exhausted_text, head_lines, layer_header, layer_rows

MIB = 2**20
LAYERS = ("", "fc1", "act", "fc2")
BALANCE = {
    "parameters": 2 * MIB, "gradients": 0, "optimizer": 4 * MIB, "buffers": 0, "saved": 8 * MIB,
    "batch": MIB // 2, "unexplained": 100 * MIB, "total": 114 * MIB + MIB // 2,
}  # fmt: skip
PHASES = {
    "data": 0.001,
    "forward": 0.01,
    "loss": 0.0005,
    "backward": 0.02,
    "optimizer": 0.003,
    "other": 0.0,
}


def memory(step=7, saved=(0, MIB, 5 * MIB, 2 * MIB), run="r", revision=1, **fields) -> Memory:
    rows = {
        i: MemoryRow(kept, i * MIB, i * MIB, 2 * i * MIB, 0, 9, 9, 9) for i, kept in enumerate(saved)
    }
    columns, zero, body = pack_memory(rows, len(saved))
    return Memory(
        run=run, rank=0, step=step, time_s=1.0, manifest_revision=revision, rows=len(saved),
        columns=columns, zero=zero, body=body,
        **({"balance": BALANCE, "machine": {"host_resident": 114 * MIB}} | fields),
    )  # fmt: skip


def times(step=7, count=4, run="r", **fields) -> Times:
    rows = {i: TimeRow(0.001 * i, 0.002 * i, i) for i in range(count)}
    columns, zero, body = pack_times(rows, count)
    return Times(
        run=run, rank=0, step=step, time_s=1.0, manifest_revision=1, rows=count, columns=columns,
        zero=zero, body=body, **({"phases_s": PHASES} | fields),
    )  # fmt: skip


@pytest.fixture
def store():
    made = ResourceStore()
    made.insert(memory(), LAYERS, 1)
    made.insert(times(), LAYERS, 1)
    return made


def text(lines) -> list[str]:
    return ["".join(cell.text for cell in line) for line in lines]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(store, width):
    lines = text([*head_lines(store, "out of memory in fc1", width), layer_header(width)])
    lines += text(layer_rows(store, width - 1))
    assert max(cell_len(line.rstrip()) for line in lines) <= width


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_shows_every_nonzero_part_by_its_size(store, width):
    bar = text(head_lines(store, "", width))[1].strip()
    assert len(bar) == width - 2
    # saved, parameters, optimizer, in and out, unexplained: of gradients and buffers there are none
    assert list(dict.fromkeys(bar)) == ["█", "▓", "▞", "░", "·"]
    room = width - 2
    for sign, size in (("█", 8), ("▓", 2), ("▞", 4), ("·", 100)):
        assert bar.count(sign) == pytest.approx(room * size / 114.5, abs=2.5)


@pytest.mark.parametrize("width", range(60, 130))
def test_the_titles_are_aligned_with_their_columns(store, width):
    header, row = text([layer_header(width), layer_rows(store, width - 1)[0]])
    for title in header.split("layer")[1].replace("with below", "below").split():
        end = header.index(title) + len(title) - 1  # the rows begin behind the cursor's cell
        assert row[end - 1] != " "
        assert row[end : end + 1] in (" ", "")


def test_the_legend_names_the_parts_with_human_units(store):
    lines = "\n".join(text(head_lines(store, "", 120)))
    for words in ("█ saved for backward 8.00 MiB", "▞ optimizer 4.00 MiB", "114 MiB resident",
                  "▓ backward 20.0 ms", "step 7", "host clock"):  # fmt: skip
        assert words in lines
    assert "gradients" not in lines


def test_layers_are_ordered_by_the_memory_they_save(store):
    rows = text(layer_rows(store, 119))
    assert [row.split()[0] for row in rows] == ["act", "fc2", "fc1", "(the"]
    act = rows[0].split()
    assert act[1:3] == ["5.00", "MiB"]
    assert "2.00 ms" in rows[0]  # forward
    assert "4.00 ms" in rows[0]  # backward
    assert "8.00 MiB" in rows[3]  # the whole, below the model itself


def test_a_number_not_measured_is_a_dot_and_a_zero_is_a_zero():
    store = ResourceStore()
    store.insert(memory(saved=(None, None, None, None), notes=("compiled",)), LAYERS, 1)
    rows = text(layer_rows(store, 119))
    assert rows
    for row in rows:
        assert row.split()[-1] == "·"  # calls: no times have come
    assert " ! compiled" in "\n".join(text(head_lines(store, "", 80)))
    kept = layer_rows(store, 119)[0][1]
    assert (kept.text.strip(), kept.role) == ("·", "dim")


def test_memory_over_steps_and_its_peak_are_shown(store):
    for step, saved in ((14, 9), (3, 20), (14, 9)):
        store.insert(memory(step, balance=BALANCE | {"saved": saved * MIB}), LAYERS, 1)
    assert list(store.saved_bytes) == [3, 7, 14]
    assert store.memory.step == 14
    assert "most 20.0 MiB in step 3" in "\n".join(text(head_lines(store, "", 100)))


def test_rows_of_other_layers_are_counted_and_not_shown(store):
    store.insert(memory(9, revision=4), LAYERS, 1)
    store.insert(memory(10), ("", "fc1"), 1)
    assert (store.unreadable, store.memory.step) == (2, 7)


def test_an_out_of_memory_error_is_the_first_line(store):
    account = "out of memory in the forward of fc1: CUDA out of memory\n 1 MiB of fc1"
    found = exhausted_text(["the run began", account])
    assert found == "out of memory in the forward of fc1: CUDA out of memory"
    line = head_lines(store, found, 100)[0]
    assert (line[0].role, line[0].text.strip()) == ("bad", f"✕ {found}")


def test_a_restarted_run_has_new_memory_data():
    run = SyntheticRun()
    store = RunStore(run.run)
    count = len(run.layers)
    store.feed(run.manifest())
    store.feed(run.step(50))
    store.feed(memory(50, saved=[0] * count, run=run.run))
    assert store.resources.memory.step == 50
    store.feed(run.step(0, time_s=run.start_s + 1e6))
    assert store.resources.memory is None


@SIZES
async def test_a_key_opens_the_page_and_only_the_list_scrolls(size):
    async with open_app(size) as ui:
        await ui.press("3")
        await ui.until_shown("No memory data yet", advance=False)
        run = next(iter(ui.source.runs.values()))
        count = len(run.layers)
        saved = [i * MIB for i in range(count)]
        ui.source.put(memory(15, saved, run.run), times(15, count, run.run))
        await ui.until_shown("memory after the forward of step 15", advance=False)
        for words in ("saved for backward 8.00 MiB", "forward", "with below", "3 Memory"):
            assert words in ui.text
        first = run.layers[count - 1].name
        assert first in ui.text
        await ui.press("G")
        await ui.until(lambda: first not in ui.text, advance=False)
        assert "memory after the forward of step 15" in ui.text
        assert len(ui.text.splitlines()) == size[1]
