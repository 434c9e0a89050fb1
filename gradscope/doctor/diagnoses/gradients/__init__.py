"""Diagnoses of the gradient itself: its value, its precision, its second derivative."""
