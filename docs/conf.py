"""How Sphinx builds the documentation: `make docs`."""

import re
from typing import Any

from sphinx.application import Sphinx

import gradscope

project = "gradscope"
author = "the gradscope authors"
version = release = gradscope.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"gradscope {release}"
html_show_copyright = False
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autoclass_content = "class"
add_module_names = False
python_use_unqualified_type_names = True

_ARGUMENT = re.compile(r"(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*): (?P<text>.*)")


def setup(app: Sphinx) -> None:
    """Install the conversion of docstrings."""
    app.connect("autodoc-process-docstring", convert_arguments)


def convert_arguments(
    app: Sphinx, what: str, name: str, object_: object, options: Any, lines: list[str]
) -> None:
    """Turn paragraphs of `argument: text` into lists."""
    converted: list[str] = []
    is_in_list = False
    for line in lines:
        argument = _ARGUMENT.fullmatch(line)
        if argument and (is_in_list or not converted or not converted[-1]):
            is_in_list = True
            names = ", ".join(f"**{name}**" for name in argument["names"].split(", "))
            converted.append(f"- {names}: {argument['text']}")
        elif is_in_list and line.strip():
            converted.append("  " + line.strip())
        else:
            is_in_list = False
            converted.append(line)
    lines[:] = converted
