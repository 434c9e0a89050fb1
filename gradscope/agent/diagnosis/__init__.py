"""Findings of a running training: gathers facts, runs the checks and reports what they find."""
