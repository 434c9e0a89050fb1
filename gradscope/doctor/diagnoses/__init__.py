"""The diagnoses, one subject a file. Each is a function from an examination to findings."""
