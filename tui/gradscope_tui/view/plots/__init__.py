"""Plots made of characters: braille curves, sparklines, heat strips."""
