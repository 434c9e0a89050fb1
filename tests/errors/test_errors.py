"""The tree that the docstring draws is the tree of the classes."""

import inspect
import re

import pytest

from gradscope import errors

_CLASSES = [cls for cls in vars(errors).values() if inspect.isclass(cls)]


def _drawn() -> dict[str, str]:
    """Return each drawn name with the name it hangs from."""
    above: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1])
            while above and above[-1][0] >= depth:
                above.pop()
            drawn[found[2]] = above[-1][1] if above else "Exception"
            above.append((depth, found[2]))
    return drawn


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    assert _drawn() == {cls.__name__: cls.__bases__[0].__name__ for cls in _CLASSES}


def test_each_drawn_name_has_its_meaning():
    lines = [line for line in errors.__doc__.splitlines() if re.search(r"[├└]──", line)]
    assert len(lines) == len(_CLASSES) - 1
    for line in lines:
        assert re.search(r"\w+Error {2,}\w+.*", line), line


def test_all_classes_are_exported_in_order_and_nothing_else():
    assert errors.__all__ == sorted(cls.__name__ for cls in _CLASSES)


@pytest.mark.parametrize("cls", _CLASSES, ids=lambda cls: cls.__name__)
def test_one_except_catches_each_and_its_message_reads_as_written(cls: type[errors.GradscopeError]):
    with pytest.raises(errors.GradscopeError) as caught:
        raise cls("layer 'a' is not there")
    assert str(caught.value) == "layer 'a' is not there"
    assert cls.__doc__


def test_an_error_without_a_message_is_empty_and_does_not_fail():
    assert {str(cls()) for cls in _CLASSES} == {""}


def test_python_code_that_knows_nothing_of_gradscope_catches_what_it_expects():
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.NotMeasuredError, KeyError)
    assert not issubclass(errors.UnknownLayerError, KeyError)


def test_errors_of_the_other_side_are_no_usage_errors():
    for theirs in (errors.ProtocolError, errors.IncompatibleError, errors.LinkError):
        assert not issubclass(theirs, errors.UsageError)
