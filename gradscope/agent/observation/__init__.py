"""Statistics of a model in observed steps: which layers, what is measured, corrections."""
