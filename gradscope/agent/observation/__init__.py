"""Statistics of a model in observed steps: the layers, the measurements, and corrections."""
