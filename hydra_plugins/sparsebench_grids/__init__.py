"""What sparsebench brings to Hydra: a sweeper that finishes grids, one that searches, and a pool of warm processes."""
