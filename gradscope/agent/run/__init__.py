"""Who this process is and what `attach` was asked for: settings, identity, ranks, faults."""
