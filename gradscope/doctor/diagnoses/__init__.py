"""The diagnoses: one subject a file, each a function from an examination to findings."""
