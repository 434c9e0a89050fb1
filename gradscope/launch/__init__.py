"""Observes a script without a changed line: `gradscope run train.py`."""
