"""Measurements on trained networks: quality, loss barriers, curvature, batch-norm statistics."""
