"""Which layers of two models correspond: by name, else by type and the shapes of their parameters."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.protocol import Layer

__all__ = ["Correspondence", "match_layers"]

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


@dataclass(frozen=True, slots=True)
class Correspondence:
    """The layers of two models. `of_b` maps a name in B to the name in A of the layer that corresponds to it."""

    of_b: dict[str, str]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    changed: tuple[str, ...]
    """Layers of A whose type, or whose parameters' shape or dtype, differ in B."""

    @property
    def is_whole(self) -> bool:
        """Whether all layers correspond and are alike."""
        return not (self.only_a or self.only_b or self.changed)

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """Pairs of names that differ."""
        return tuple((a, b) for b, a in self.of_b.items() if a != b)


def match_layers(layers_a: Sequence[Layer], layers_b: Sequence[Layer]) -> Correspondence:
    """Match the layers of two models: by name, or by the order of types and shapes if fewer names are the same."""
    by_name = _by_name(layers_a, layers_b)
    by_type = _by_type(layers_a, layers_b)
    leaves_a = _leaves(layers_a)
    named = sum(a in leaves_a for a in by_name.values())
    of_b = by_name if named >= sum(a in leaves_a for a in by_type.values()) else by_type
    matched = set(of_b.values())
    in_a = {layer.name: layer for layer in layers_a}
    return Correspondence(
        of_b,
        tuple(layer.name for layer in layers_a if layer.name not in matched),
        tuple(layer.name for layer in layers_b if layer.name not in of_b),
        tuple(
            in_a[of_b[layer.name]].name
            for layer in layers_b
            if layer.name in of_b and _signature(layer) != _signature(in_a[of_b[layer.name]])
        ),
    )


def _by_name(layers_a: Sequence[Layer], layers_b: Sequence[Layer]) -> dict[str, str]:
    in_a = {_bare(layer.name): layer.name for layer in layers_a}
    return {layer.name: in_a[_bare(layer.name)] for layer in layers_b if _bare(layer.name) in in_a}


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removesuffix("module") if name in ("module", "_orig_mod") else name


def _by_type(layers_a: Sequence[Layer], layers_b: Sequence[Layer]) -> dict[str, str]:
    a, b = ([layer for layer in layers if layer.name] for layers in (layers_a, layers_b))
    matcher = difflib.SequenceMatcher(
        None, [_signature(layer) for layer in a], [_signature(layer) for layer in b], autojunk=False
    )
    pairs = {"": ""}
    for begin_a, begin_b, size in matcher.get_matching_blocks():
        for i in range(size):
            pairs[b[begin_b + i].name] = a[begin_a + i].name
    return pairs


def _signature(layer: Layer) -> tuple[str, tuple[tuple[str, tuple[int, ...], str], ...]]:
    return layer.type, tuple((p.name, p.shape, p.dtype) for p in layer.parameters)


def _leaves(layers: Sequence[Layer]) -> frozenset[str]:
    names = {layer.name for layer in layers}
    above = {name.rpartition(".")[0] for name in names if name}
    return frozenset(names - above - {""})
