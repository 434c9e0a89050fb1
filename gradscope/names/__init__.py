"""Layer names, the patterns that choose them, and numbers with their nouns."""

from gradscope.names.counts import counted
from gradscope.names.patterns import check_pattern, match_names

__all__ = ["check_pattern", "counted", "match_names"]
