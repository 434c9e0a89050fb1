"""Diagnoses of the gradient itself: its values, its precision, its second derivative."""
