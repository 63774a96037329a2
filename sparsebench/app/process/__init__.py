"""One run in one process: execute, work, help, and report the outcome."""
