"""One run in one process: execute, work, help, and say how it went."""
