"""The checks: pure functions of observed steps, one module for each subject."""
