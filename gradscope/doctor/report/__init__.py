"""Findings, codes, the report and its text."""
