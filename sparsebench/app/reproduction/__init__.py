"""Published cells run on this machine: selection, duration and verdicts."""
