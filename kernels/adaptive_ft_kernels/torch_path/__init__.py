"""The gated operations in plain PyTorch, on samples grouped by gate: the way of CPUs."""
