"""The identity of this process and the settings of a run: arguments of `attach`, ranks, steps, faults."""
