"""Interventions applied to activations, gradients and parameters in the training step."""
