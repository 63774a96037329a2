"""Pure functions from tensors to tensors: distributions, selections, scores, schedules, proximal maps, estimators."""
