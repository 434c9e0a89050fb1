"""The diagnoses, one subject per file. Each diagnosis is a function from an examination to findings."""
