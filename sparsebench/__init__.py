"""Train sparse neural networks, compare methods on equal terms, and believe the numbers."""

__version__ = "0.1.0"
