"""What `adaptive-ft invariance` measures: models and examples as readers and inputs, and where its figures go."""
