"""The Function that is examined, and how it is run and instrumented."""
