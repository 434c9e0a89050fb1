"""Layer names and the patterns that choose them."""

from gradscope.names.patterns import check_pattern, match_names

__all__ = ["check_pattern", "match_names"]
