"""Measures of protocols: pure functions of predictions and ground truth."""
