"""A run on disk: its identity, its folder, its files and its locks."""
