"""A captured tensor element by element: planes and slices, what is drawn, and the keys."""

import numpy as np
import pytest
from test_app import SIZES, open_app

from gradscope.client import CapturedArray
from gradscope_tui.view.cell import text_of
from gradscope_tui.view.tensor_map import element_text, map_lines, plane_of, plane_text, scale_of


def drawn(array, plane=None, cursor=(0, 0), width=80, height=10):
    plane = plane or plane_of(array)
    return [text_of(line) for line in map_lines(array, plane, scale_of(array), cursor, width, height)]


def test_each_element_has_its_sign_and_its_share_of_the_largest_magnitude():
    array = np.array([[1.0, -1.0, 0.5, 0.0], [-0.25, np.nan, np.inf, -np.inf]])
    assert drawn(array) == ["0  █-█ ▒ ·", "1 -░ ! ∞-∞"]


def test_all_slices_have_the_scale_of_the_whole_tensor():
    array = np.zeros((2, 1, 2))
    array[0, 0], array[1, 0] = (0.25, 0.25), (1.0, 0.0)
    plane = plane_of(array)
    assert drawn(array, plane) == ["0  ░ ░"]
    assert drawn(array, plane.moved(1)) == ["0  █ ·"]
    assert plane.moved(2) == plane, "after the last index comes the first"


def test_every_pair_of_dimensions_is_shown_in_turn_and_its_elements_are_those_of_the_array():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.float32)
    plane, seen = plane_of(array), set()
    for _ in range(6):
        seen.add((plane.rows, plane.columns))
        moved = plane.moved(1)
        index = list(moved.index)
        index[moved.rows], index[moved.columns] = 1, 1
        text = element_text(array, moved, (1, 1))
        assert text.startswith(f"[{', '.join(map(str, index))}] = ")
        assert float(text.partition("= ")[2]) == array[tuple(index)]
        plane = plane.turned()
    assert seen == {(i, j) for i in range(4) for j in range(i + 1, 4)}
    assert plane.rows == 2


def test_the_next_dimension_is_changed_after_it_was_chosen():
    plane = plane_of(np.zeros((3, 4, 2, 2)))
    assert (plane.chosen, plane.moved(-1).index) == (0, (2, 0, 0, 0))
    assert plane.with_next_chosen().moved(-1).index == (0, 3, 0, 0)
    assert "▶dim 0: 0 of 3   dim 1: 0 of 4" in plane_text(plane)


@pytest.mark.parametrize(
    ("shape", "text", "where"), [((), "1 elements", "[]"), ((5,), "5 elements", "[0]")]
)
def test_a_scalar_and_a_vector_are_one_row(shape, text, where):
    array = np.full(shape, 0.5, np.float32)
    assert plane_text(plane_of(array)) == text
    assert element_text(array, plane_of(array), (0, 0)) == f"{where} = 0.500"


def test_of_a_large_tensor_the_part_around_the_cursor_is_drawn():
    array = np.zeros((1000, 1000), np.float32)
    array[500, 500] = -1
    lines = drawn(array, cursor=(500, 500), width=44, height=9)
    assert [line.split()[0] for line in lines] == [str(row) for row in range(496, 505)]
    assert [line for line in lines if "-█" in line] == [lines[4]]
    assert all(len(line) == 4 + 2 * 20 for line in lines)


@pytest.mark.slow
@SIZES
async def test_a_tensor_is_gone_through_by_keys(size):
    async with open_app(size) as ui:
        array = np.arange(4 * 30 * 50, dtype=np.float32).reshape(4, 30, 50) - 3000

        def capture(layer, what):
            names = ("a", "b") if what == "param_grad" else ("",)
            return [CapturedArray(9, layer, what, n, array, "float32", array.shape) for n in names]

        ui.source.capture = capture
        await ui.press("j", "v")
        await ui.until_shown("activation of tokens, step 9: 4 x 30 x 50", advance=False)
        await ui.press("m", "right_square_bracket", "right_square_bracket", "end", "down")
        await ui.until_shown("rows: dim 1 (30), columns: dim 2 (50)   ▶dim 0: 2 of 4", advance=False)
        await ui.until_shown("[2, 1, 49] = 99.0", advance=False)
        await ui.press("x")
        await ui.until_shown("▶dim 1: 0 of 30", advance=False)
        await ui.press("w")
        await ui.until_shown("param_grad of tokens.a", advance=False)
        await ui.press("tab")
        await ui.until_shown("(tensor 2 of 2)", advance=False)
        await ui.press("m")
        await ui.until_shown("channels along dimension 0", advance=False)
        await ui.press("escape")
        await ui.until(lambda: ui.app.screen is ui.app.main, advance=False)
