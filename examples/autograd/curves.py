"""Curves drawn in the terminal by plotext, or saved as a picture by matplotlib.

Both come with `pip install 'gradscope[examples]'`; the numbers of the examples need neither.
"""

import argparse
import importlib
import math
import sys

MISSING = "this needs {name}, which is not installed here: pip install 'gradscope[examples]'"


def show(panels, arguments=None):
    """Draw panels below each other: {title: {label: (xs, ys)}}; with `--save FILE.png`, save them."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--save", metavar="FILE.png", help="a picture by matplotlib, nothing drawn here"
    )
    path = parser.parse_args(arguments).save
    name = "plotext" if path is None else "matplotlib"
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        if path is None:
            print("no curves:", MISSING.format(name=name), file=sys.stderr)
            return
        parser.error("--save: " + MISSING.format(name=name))
    if path is None:
        draw(library.figure, panels)
    else:
        save(path, panels)


def draw(figure, panels):
    """Draw each panel as wide as a page; colours only where a terminal shows them."""
    for title, curves in panels.items():
        figure.clear()
        figure.plot_size(96, 22)
        figure.title(title)
        for label, (xs, ys) in curves.items():
            points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
            figure.draw(figure.signal(*zip(*points, strict=True)).label(label))
        figure.show(colorless=not sys.stdout.isatty())


def save(path, panels):
    """Save all panels as one picture."""
    figures = importlib.import_module(
        "matplotlib.figure"
    )  # without a window, and without pyplot's state
    figure = figures.Figure(figsize=(8, 4 * len(panels)), layout="constrained")
    for place, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, place, title=title)
        for label, (xs, ys) in curves.items():
            axes.plot(xs, ys, label=label)
        axes.legend()
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)
    print("saved:", path)
