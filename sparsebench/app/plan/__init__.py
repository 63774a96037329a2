"""Predict the cost of a run by rehearsing it without data."""
