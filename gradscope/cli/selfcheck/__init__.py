"""The self-check of `gradscope demo` without a terminal."""
