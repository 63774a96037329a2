"""Grids: composing cells, launching jobs, finishing all of them, and showing their states."""
