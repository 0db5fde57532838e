"""Beside the steps: their rows, measurements, estimates, and what is kept of bad ones."""
