"""What a run would cost, found by rehearsing it without data."""
