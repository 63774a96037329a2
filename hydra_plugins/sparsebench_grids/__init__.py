"""Hydra plugins of sparsebench: a sweeper for grids, a sweeper that searches, a pool of warm processes."""
