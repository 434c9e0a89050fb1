"""Rules, the nonfinite check, breakpoints and the pause."""
