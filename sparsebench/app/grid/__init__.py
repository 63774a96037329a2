"""Grids: cells, jobs, their states, and how each is brought to its end."""
