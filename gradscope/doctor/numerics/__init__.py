"""Numerical references: finite differences, precision, comparisons."""
