"""Layer names, the patterns that choose them, names of runs and of options, and numbers with their nouns."""

from gradscope.names.counts import counted
from gradscope.names.options import check_options
from gradscope.names.patterns import check_pattern, match_names
from gradscope.names.run_names import check_run_name

__all__ = ["check_options", "check_pattern", "check_run_name", "counted", "match_names"]
